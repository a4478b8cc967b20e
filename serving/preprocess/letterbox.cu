// Resize (OpenCV's uint8 linear), place on a plane with a border, channel order, range, mean and std, NCHW or NHWC:
// one pass, one thread a pixel of the plane. The same pixels and floats as serving/preprocess/reference.py with the
// kernel cv2_linear, not nearly the same: the fixed-point steps are OpenCV's (resize.cpp, 11-bit coefficients).
//
// Compiled by NVRTC for the device and, behind a small shim, by g++ in the tests. Both need contraction to fused
// multiply-add off (--fmad=false, -ffp-contract=off), or sample positions differ in their last bit.

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define LOCKSTEP_INLINE __device__ __forceinline__
#define LOCKSTEP_ROUND(value) __float2int_rn(value)
#else
#include <cmath>
#define LOCKSTEP_INLINE static inline
#define LOCKSTEP_ROUND(value) static_cast<int>(std::lrintf(value))
#endif

// Mirrored field by field by Plan in gpu.py and in the tests.
struct LetterboxPlan {
    int source_width, source_height;    // RGB uint8 [source_height, source_width, 3], contiguous
    int resized_width, resized_height;  // the picture after resizing
    int offset_x, offset_y;             // where it lies on the plane; negative: cropped
    int plane_width, plane_height;
    int pad_value;                      // 0..255
    int reversed;                       // 1: channels as BGR
    int channels_last;                  // 1: NHWC
};

struct LetterboxTap {
    int first, second;                // the two source rows or columns
    int first_weight, second_weight;  // of 2048
};

LOCKSTEP_INLINE LetterboxTap letterbox_tap(int index, int source, int resized, bool clamp_weight) {
    const double scale = 1.0 / (static_cast<double>(resized) / source);
    float fraction = static_cast<float>((index + 0.5) * scale - 0.5);
    int first = static_cast<int>(floorf(fraction));
    fraction -= static_cast<float>(first);
    // OpenCV moves columns beyond the edge onto it, but only repeats rows: their weights are rounded apart.
    if (clamp_weight && (first < 0 || first >= source - 1)) {
        fraction = 0.0f;
        first = first < 0 ? 0 : source - 1;
    }
    const int second = first + 1;
    LetterboxTap tap;
    tap.first = first < 0 ? 0 : (first > source - 1 ? source - 1 : first);
    tap.second = second < 0 ? 0 : (second > source - 1 ? source - 1 : second);
    tap.first_weight = LOCKSTEP_ROUND((1.0f - fraction) * 2048.0f);
    tap.second_weight = LOCKSTEP_ROUND(fraction * 2048.0f);
    return tap;
}

LOCKSTEP_INLINE int letterbox_level(const unsigned char* source, const LetterboxPlan& plan, LetterboxTap column,
                                    LetterboxTap row, int channel) {
    const long long pitch = 3LL * plan.source_width;
    const unsigned char* above = source + row.first * pitch + channel;
    const unsigned char* below = source + row.second * pitch + channel;
    const int top = above[3 * column.first] * column.first_weight + above[3 * column.second] * column.second_weight;
    const int bottom = below[3 * column.first] * column.first_weight + below[3 * column.second] * column.second_weight;
    const int sum = ((row.first_weight * (top >> 4)) >> 16) + ((row.second_weight * (bottom >> 4)) >> 16);
    const int level = (sum + 2) >> 2;
    return level < 0 ? 0 : (level > 255 ? 255 : level);
}

// table: float [3, 256], the value of each level in each channel of the network (range, mean, std).
// tensor: float, plane x 3; pixels: uint8 [plane_height, plane_width, 3] before normalising, or null.
LOCKSTEP_INLINE void letterbox_pixel(const unsigned char* source, const LetterboxPlan& plan, const float* table,
                                     float* tensor, unsigned char* pixels, int x, int y) {
    const int column = x - plan.offset_x, row = y - plan.offset_y;
    const bool inside = column >= 0 && column < plan.resized_width && row >= 0 && row < plan.resized_height;
    LetterboxTap across = {0, 0, 0, 0}, down = {0, 0, 0, 0};
    if (inside) {
        across = letterbox_tap(column, plan.source_width, plan.resized_width, true);
        down = letterbox_tap(row, plan.source_height, plan.resized_height, false);
    }
    const long long area = static_cast<long long>(plan.plane_width) * plan.plane_height;
    const long long at = static_cast<long long>(y) * plan.plane_width + x;
    for (int channel = 0; channel < 3; ++channel) {
        const int taken = plan.reversed ? 2 - channel : channel;
        const int level = inside ? letterbox_level(source, plan, across, down, taken) : plan.pad_value;
        tensor[plan.channels_last ? 3 * at + channel : channel * area + at] = table[256 * channel + level];
        if (pixels != nullptr) {
            pixels[3 * at + channel] = static_cast<unsigned char>(level);
        }
    }
}

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
extern "C" __global__ void lockstep_letterbox(const unsigned char* source, LetterboxPlan plan, const float* table,
                                              float* tensor, unsigned char* pixels) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < plan.plane_width && y < plan.plane_height) {
        letterbox_pixel(source, plan, table, tensor, pixels, x, y);
    }
}
#endif
