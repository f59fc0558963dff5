/* Vectors of channels: LANES numbers of a pixel, of which the last vector of a pixel may hold fewer. */

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif

typedef float V __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef uint16_t H __attribute__((vector_size(2 * LANES)));

INLINE V whole_at(const void *numbers, long i, const int half) {
    V x;
    if (!half) {
        memcpy(&x, (const float *)numbers + i, sizeof x);
        return x;
    }
    H h;
    memcpy(&h, (const uint16_t *)numbers + i, sizeof h);
    return (V)(__builtin_convertvector(h, U) << 16);
}

INLINE void put_whole(void *numbers, long i, V x, const int half) { /* rounds as `put` does */
    if (!half) {
        memcpy((float *)numbers + i, &x, sizeof x);
        return;
    }
    U bits = (U)x, is_nan = (U)(x != x), up = (0x7fff + ((bits >> 16) & 1)) & ~is_nan;
    H h = __builtin_convertvector((bits + up) >> 16 | (is_nan & 64), H);
    memcpy((uint16_t *)numbers + i, &h, sizeof h);
}

/* The same for the first n channels; what is past them is 0 and stays. */
INLINE V lanes_at(const void *numbers, long i, long n, const int half) {
    if (n >= LANES) return whole_at(numbers, i, half);
    V x = {0};
    for (long c = 0; c < n; c++) x[c] = at(numbers, i + c, half);
    return x;
}

INLINE void put_lanes(void *numbers, long i, long n, V x, const int half) {
    if (n >= LANES) put_whole(numbers, i, x, half);
    else
        for (long c = 0; c < n; c++) put(numbers, i + c, x[c], half);
}
