// A thread rotates four neighbours of the first half of a head's vector with their partners (one where halves
// are no multiple of four).
constexpr int THREADS = 256;

__device__ void rotate(float& a, float& b, float c, float s) {
  const float first = a * c - b * s;
  b = b * c + a * s;
  a = first;
}

extern "C" __global__ void __launch_bounds__(THREADS)
rotary_kernel(const float* x, const float* cos, const float* sin, float* y, int vectors, int tokens, int half) {
  const int i = blockIdx.x * THREADS + threadIdx.x;
  if (i >= vectors) return;
  const int width = half % 4 == 0 ? 4 : 1;
  const int at = i % (half / width) * width, place = i / (half / width);  // place: head and token
  const long long first = (long long)place * 2 * half + at, second = first + half;
  const int angle = place % tokens * half + at;
  if (width == 4) {
    float4 a = *reinterpret_cast<const float4*>(x + first), b = *reinterpret_cast<const float4*>(x + second);
    const float4 c = *reinterpret_cast<const float4*>(cos + angle);
    const float4 s = *reinterpret_cast<const float4*>(sin + angle);
    rotate(a.x, b.x, c.x, s.x);
    rotate(a.y, b.y, c.y, s.y);
    rotate(a.z, b.z, c.z, s.z);
    rotate(a.w, b.w, c.w, s.w);
    *reinterpret_cast<float4*>(y + first) = a;
    *reinterpret_cast<float4*>(y + second) = b;
  } else {
    float a = x[first], b = x[second];
    rotate(a, b, cos[angle], sin[angle]);
    y[first] = a;
    y[second] = b;
  }
}
