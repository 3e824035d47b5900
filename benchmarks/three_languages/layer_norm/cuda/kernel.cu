// One block a row, the row in shared memory.
constexpr int THREADS = 256;

// The sum of `value` over the block; `partial` has a place a warp.
__device__ float block_sum(float value, float* partial) {
  for (int by = 16; by > 0; by /= 2) value += __shfl_xor_sync(0xffffffffu, value, by);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0.0f;
  for (int warp = 0; warp < THREADS / 32; ++warp) total += partial[warp];
  __syncthreads();
  return total;
}

// A row into shared memory, four elements at a time where rows are aligned.
__device__ void stage(const float* x, float* row, int columns) {
  if (columns % 4 == 0) {
    for (int i = threadIdx.x; i < columns / 4; i += THREADS)
      reinterpret_cast<float4*>(row)[i] = reinterpret_cast<const float4*>(x)[i];
  } else {
    for (int i = threadIdx.x; i < columns; i += THREADS) row[i] = x[i];
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS)
layer_norm_kernel(const float* x, const float* weight, const float* bias, float* y, int columns) {
  extern __shared__ float4 memory[];
  __shared__ float partial[THREADS / 32];
  float* row = reinterpret_cast<float*>(memory);
  const long long start = (long long)blockIdx.x * columns;
  stage(x + start, row, columns);
  // Twice: what rounding leaves of the mean counts where a row is nearly constant.
  for (int pass = 0; pass < 2; ++pass) {
    float total = 0.0f;
    for (int i = threadIdx.x; i < columns; i += THREADS) total += row[i];
    const float mean = block_sum(total, partial) / columns;
    for (int i = threadIdx.x; i < columns; i += THREADS) row[i] -= mean;
  }
  float squares = 0.0f;
  for (int i = threadIdx.x; i < columns; i += THREADS) squares += row[i] * row[i];
  const float scale = 1.0f / sqrtf(block_sum(squares, partial) / columns + 1e-5f);
  for (int i = threadIdx.x; i < columns; i += THREADS) y[start + i] = row[i] * scale * weight[i] + bias[i];
}
