#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Values in registers: halves as floats.
template <class T> struct Value { typedef T type; };
template <> struct Value<__half> { typedef float type; };
template <> struct Value<__nv_bfloat16> { typedef float type; };

template <class T> __device__ inline T wide(T x) { return x; }
__device__ inline float wide(__half x) { return __half2float(x); }
__device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T> __device__ inline T narrow(typename Value<T>::type x) { return x; }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

template <class T> __device__ inline typename Value<T>::type get(const T* p) { return wide(*p); }
template <class T> __device__ inline void put(T* p, typename Value<T>::type x) { *p = narrow<T>(x); }

// Memory words of up to 16 bytes.
template <int bytes> struct Word;
template <> struct Word<1> { typedef unsigned char type; };
template <> struct Word<2> { typedef unsigned short type; };
template <> struct Word<4> { typedef unsigned int type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<16> { typedef uint4 type; };

template <int n, class T> __device__ inline void get_all(const T* p, typename Value<T>::type (&x)[n]) {
  constexpr int bytes = n * sizeof(T) < 16 ? n * sizeof(T) : 16, per = bytes / sizeof(T);
  typedef typename Word<bytes>::type W;
#pragma unroll
  for (int c = 0; c < n / per; ++c) {
    const W word = reinterpret_cast<const W*>(p)[c];
    T part[per];
    memcpy(part, &word, bytes);
#pragma unroll
    for (int k = 0; k < per; ++k) x[c * per + k] = wide(part[k]);
  }
}

template <int n, class T> __device__ inline void put_all(T* p, const typename Value<T>::type (&x)[n]) {
  constexpr int bytes = n * sizeof(T) < 16 ? n * sizeof(T) : 16, per = bytes / sizeof(T);
  typedef typename Word<bytes>::type W;
#pragma unroll
  for (int c = 0; c < n / per; ++c) {
    T part[per];
#pragma unroll
    for (int k = 0; k < per; ++k) part[k] = narrow<T>(x[c * per + k]);
    W word;
    memcpy(&word, part, bytes);
    __stwb(reinterpret_cast<W*>(p) + c, word);  // an assignment may be split where values come one by one
  }
}
