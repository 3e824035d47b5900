// Four neighbouring elements a thread.
constexpr int THREADS = 256;

__device__ float gelu(float v) {
  const float inner = 0.7978845608028654f * (v + 0.044715f * v * v * v);
  return v / (1.0f + expf(-2.0f * inner));  // 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u))
}

extern "C" __global__ void __launch_bounds__(THREADS) gelu_kernel(const float* x, float* y, int size) {
  const int first = 4 * (blockIdx.x * THREADS + threadIdx.x);
  if (first + 4 <= size) {
    const float4 v = *reinterpret_cast<const float4*>(x + first);
    *reinterpret_cast<float4*>(y + first) = make_float4(gelu(v.x), gelu(v.y), gelu(v.z), gelu(v.w));
  } else {
    for (int i = first; i < size; ++i) y[i] = gelu(x[i]);
  }
}
