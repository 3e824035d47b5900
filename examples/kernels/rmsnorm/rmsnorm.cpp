// out[r, c] = x[r, c] * rsqrt(mean_c(x[r, c]^2) + eps) * weight[c], for float32 rows.
//
// A row of a few thousand floats stays in the first-level or second-level cache between the two passes over it, so
// each element is read from memory once.

#include <cmath>
#include <cstdint>

namespace {

// Independent partial sums: enough to hide the latency of addition, and less rounding than one running sum.
constexpr int kLanes = 64;

float mean_of_squares(const float* x, int64_t width) {
    float partial[kLanes] = {};
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
#pragma omp simd
        for (int lane = 0; lane < kLanes; ++lane) partial[lane] += x[c + lane] * x[c + lane];
    }
    double sum = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) sum += partial[lane];
    for (; c < width; ++c) sum += static_cast<double>(x[c]) * x[c];
    return static_cast<float>(sum / static_cast<double>(width));
}

}  // namespace

extern "C" void rmsnorm_f32(const float* x, const float* weight, float* out, int64_t rows, int64_t width, double eps) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
        const float* row = x + r * width;
        float* result = out + r * width;
        const float scale = 1.0f / std::sqrt(mean_of_squares(row, width) + static_cast<float>(eps));
#pragma omp simd
        for (int64_t c = 0; c < width; ++c) result[c] = row[c] * scale * weight[c];
    }
}
