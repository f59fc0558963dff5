/* Numbers in memory: float, or bfloat16 (`half`), which are computed with as float. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE float at(const void *numbers, long i, const int half) {
    if (!half) return ((const float *)numbers)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)numbers)[i] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE void put(void *numbers, long i, float x, const int half) { /* to nearest, ties to even; NaN stays NaN */
    if (!half) {
        ((float *)numbers)[i] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t up = x != x ? 0 : 0x7fff + ((bits >> 16) & 1); /* it would carry a NaN of all ones past its exponent */
    ((uint16_t *)numbers)[i] = (bits + up) >> 16 | (x != x) << 6;
}
