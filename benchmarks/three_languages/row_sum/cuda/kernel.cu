// One block a row, four elements at a time where rows are aligned.
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

extern "C" __global__ void __launch_bounds__(THREADS) row_sum_kernel(const float* x, float* y, int columns) {
  __shared__ float partial[THREADS / 32];
  x += (long long)blockIdx.x * columns;
  float total = 0.0f;
  if (columns % 4 == 0) {
    for (int i = threadIdx.x; i < columns / 4; i += THREADS) {
      const float4 v = reinterpret_cast<const float4*>(x)[i];
      total += (v.x + v.y) + (v.z + v.w);
    }
  } else {
    for (int i = threadIdx.x; i < columns; i += THREADS) total += x[i];
  }
  total = block_sum(total, partial);
  if (threadIdx.x == 0) y[blockIdx.x] = total;
}
