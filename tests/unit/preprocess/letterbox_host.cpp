// letterbox.cu's pixel function in two loops, so that it runs where no GPU is.
#include "letterbox.cu"

extern "C" void letterbox_host(const unsigned char* source, const LetterboxPlan* plan, const float* table,
                               float* tensor, unsigned char* pixels) {
    for (int y = 0; y < plan->plane_height; ++y) {
        for (int x = 0; x < plan->plane_width; ++x) {
            letterbox_pixel(source, *plan, table, tensor, pixels, x, y);
        }
    }
}
