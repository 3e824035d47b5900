// Tiles of 64 x 64 x 32 in shared memory, four warps of 32 x 32 by tensor cores.
#include <cuda_bf16.h>
#include <mma.h>

using namespace nvcuda;
constexpr int THREADS = 128, M = 64, N = 64, K = 32, MORE = 8;  // MORE: of a line, so that banks differ

// A tile of `rows` x `columns` (at `row`, `column` of `x`, which has `height` x `width`), zeros beyond its ends.
template <int ROWS, int COLUMNS>
__device__ __forceinline__ void stage(const __nv_bfloat16* x, __nv_bfloat16 (*tile)[COLUMNS + MORE], int row, int column,
                      int height, int width) {
  if (width % 8 == 0) {
    for (int i = threadIdx.x; i < ROWS * COLUMNS / 8; i += THREADS) {
      const int r = i / (COLUMNS / 8), c = i % (COLUMNS / 8) * 8;
      const bool inside = row + r < height && column + c < width;
      const uint4 none = make_uint4(0, 0, 0, 0);
      const uint4* from = reinterpret_cast<const uint4*>(x + (long long)(row + r) * width + column + c);
      *reinterpret_cast<uint4*>(&tile[r][c]) = inside ? *from : none;
    }
  } else {
    #pragma unroll 1
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
      const int r = i / COLUMNS, c = i % COLUMNS;
      const bool inside = row + r < height && column + c < width;
      tile[r][c] = inside ? x[(long long)(row + r) * width + column + c] : __float2bfloat16(0.0f);
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS)
matmul_kernel(const __nv_bfloat16* a, const __nv_bfloat16* b, __nv_bfloat16* c, int rows, int columns,
              int depth) {
  __shared__ __align__(32) __nv_bfloat16 left[M][K + MORE];
  __shared__ __align__(32) __nv_bfloat16 right[K][N + MORE];
  __shared__ __align__(32) float sums[M][N + 4];
  const int row = blockIdx.y * M, column = blockIdx.x * N, warp = threadIdx.x / 32;
  const int own_row = warp / 2 * 32, own_column = warp % 2 * 32;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> total[2][2];
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) wmma::fill_fragment(total[i][j], 0.0f);
  #pragma unroll 1
  for (int start = 0; start < depth; start += K) {
    stage<M, K>(a, left, row, start, rows, depth);
    stage<K, N>(b, right, start, column, depth, columns);
    __syncthreads();
    for (int k = 0; k < K; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> x[2];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::row_major> y[2];
      for (int i = 0; i < 2; ++i) wmma::load_matrix_sync(x[i], &left[own_row + 16 * i][k], K + MORE);
      for (int j = 0; j < 2; ++j) wmma::load_matrix_sync(y[j], &right[k][own_column + 16 * j], N + MORE);
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) wmma::mma_sync(total[i][j], x[i], y[j], total[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j)
      wmma::store_matrix_sync(&sums[own_row + 16 * i][own_column + 16 * j], total[i][j], N + 4,
                              wmma::mem_row_major);
  __syncthreads();
  #pragma unroll 4
  for (int i = threadIdx.x; i < M * N; i += THREADS) {
    const int r = i / N, n = i % N;
    if (row + r < rows && column + n < columns) {
      const float value = sums[r][n];
      c[(long long)(row + r) * columns + column + n] = __float2bfloat16(value);
    }
  }
}
