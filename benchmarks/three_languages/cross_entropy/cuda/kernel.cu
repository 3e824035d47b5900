// One block a row of logits, the row in shared memory.
constexpr int THREADS = 256;

// The largest `value` of the block; `partial` has a place a warp.
__device__ float block_max(float value, float* partial) {
  for (int by = 16; by > 0; by /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, by));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float top = partial[0];
  for (int warp = 1; warp < THREADS / 32; ++warp) top = fmaxf(top, partial[warp]);
  __syncthreads();
  return top;
}

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
cross_entropy_kernel(const float* logits, const long long* target, float* loss, int columns) {
  extern __shared__ float4 memory[];
  __shared__ float partial[THREADS / 32];
  float* row = reinterpret_cast<float*>(memory);
  stage(logits + (long long)blockIdx.x * columns, row, columns);
  float top = -__int_as_float(0x7f800000);
  for (int i = threadIdx.x; i < columns; i += THREADS) top = fmaxf(top, row[i]);
  top = block_max(top, partial);
  float total = 0.0f;
  for (int i = threadIdx.x; i < columns; i += THREADS) total += expf(row[i] - top);
  total = block_sum(total, partial);
  if (threadIdx.x == 0) loss[blockIdx.x] = logf(total) - (row[target[blockIdx.x]] - top);
}
