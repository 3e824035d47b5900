// Four neighbouring elements a thread.
constexpr int THREADS = 256;

__device__ float swiglu(float gate, float up) { return gate / (1.0f + expf(-gate)) * up; }

extern "C" __global__ void __launch_bounds__(THREADS)
swiglu_kernel(const float* gate, const float* up, float* y, int size) {
  const int first = 4 * (blockIdx.x * THREADS + threadIdx.x);
  if (first + 4 <= size) {
    const float4 g = *reinterpret_cast<const float4*>(gate + first);
    const float4 u = *reinterpret_cast<const float4*>(up + first);
    *reinterpret_cast<float4*>(y + first) =
        make_float4(swiglu(g.x, u.x), swiglu(g.y, u.y), swiglu(g.z, u.z), swiglu(g.w, u.w));
  } else {
    for (int i = first; i < size; ++i) y[i] = swiglu(gate[i], up[i]);
  }
}
