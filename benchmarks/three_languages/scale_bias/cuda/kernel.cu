// A block covers 1024 columns of a row, four neighbours a thread where rows are aligned.
constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS)
scale_bias_kernel(const float* x, const float* bias, float* y, float scale, int columns) {
  const long long row = blockIdx.y;
  x += row * columns;
  y += row * columns;
  const int first = 4 * (blockIdx.x * THREADS + threadIdx.x);
  if (columns % 4 == 0 && first < columns) {
    const float4 v = *reinterpret_cast<const float4*>(x + first);
    const float4 b = *reinterpret_cast<const float4*>(bias + first);
    *reinterpret_cast<float4*>(y + first) =
        make_float4(v.x * scale + b.x, v.y * scale + b.y, v.z * scale + b.z, v.w * scale + b.w);
  } else {
    const int end = min(first + 4, columns);
    for (int i = first; i < end; ++i) y[i] = x[i] * scale + bias[i];
  }
}
