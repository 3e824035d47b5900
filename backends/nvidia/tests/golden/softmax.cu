: 64 rows of 512, 32 threads a row, 4 columns an access
extern "C" __global__ void __launch_bounds__(256)
k_softmax(const float* __restrict__ x0, float* __restrict__ softmax) {
  const long long row = (long long)(blockIdx.x) * 8 + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const long long at_i0 = row;
  const int first = lane * 4;
  float r0 = (-__int_as_float(0x7f800000));
  float x1[4][4];
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int col = first + i * 128;
    {
      get_all<4>(x0 + at_i0 * 512LL + col, x1[i]);
    }
  }
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    {
      #pragma unroll
      for (int k = 0; k < 4; ++k) {
        r0 = maximum<float>(r0, x1[i][k]);
      }
    }
  }
  #pragma unroll
  for (int by = 16; by > 0; by /= 2) r0 = maximum<float>(r0, __shfl_xor_sync(0xffffffffu, r0, by));
  float v1[4][4];
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    {
      #pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float t1 = (x1[i][k] - r0);
        const float t2 = expf(t1);
        v1[i][k] = t2;
      }
    }
  }
  float r2 = 0.0f;
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    {
      #pragma unroll
      for (int k = 0; k < 4; ++k) {
        r2 = r2 + v1[i][k];
      }
    }
  }
  #pragma unroll
  for (int by = 16; by > 0; by /= 2) r2 = r2 + __shfl_xor_sync(0xffffffffu, r2, by);
  #pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int col = first + i * 128;
    {
      float pack[4];
      #pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float t3 = (v1[i][k] / r2);
        pack[k] = t3;
      }
      put_all<4>(softmax + at_i0 * 512LL + col, pack);
    }
  }
}
