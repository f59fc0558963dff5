/* The passes over a chunk of classes that are not matrix products, one function each (library.py calls them).

   Legend, with numbers in C order: x (B, D) unit embeddings, w (K, D) a chunk of unit class centres,
   y (B, K) or (K, B) cosines in base-2 logits. `half`: the operands of products are bfloat16, not float.
   N of a hard negative is y + excess(y) in base 2. Reductions have one order for one number of lanes,
   rows are shared out by their index only: the same input gives the same bits. */

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK 4096    /* numbers in the cache next to the core; at least MAX_CHUNK of chunked.py */
#define TILE 8        /* rows and columns of floats that are turned together */
#define LINE 16       /* floats in a line of the cache */
#define ABSENT -1e30f /* the target among the negatives: never hard, never largest, 2^it is 0 */

typedef struct {
    float a, l, k; /* excess = (a y + l) y + k, and its slope 2 a y + l */
} Hard;

static inline float from_half(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint16_t to_half(float x) { /* to nearest, ties to even; NaN stays NaN */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t up = x != x ? 0 : 0x7fff + ((bits >> 16) & 1); /* it would carry a NaN of all ones past its exponent */
    return (bits + up) >> 16 | (x != x) << 6;
}

/* 2^x for x <= 127, 0 below -126, NaN for NaN: Taylor's series of the fraction, of 5e-9. */
static inline float power_of_2(float x) {
    float whole = __builtin_rintf(x), f = x - whole;
    float p = 1.5252734e-5f;
    p = p * f + 1.5403530e-4f;
    p = p * f + 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    int32_t bits = ((int32_t)whole + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return x < -126.0f ? 0.0f : p * scale;
}

/* The next n numbers as float: in place, or spread into `space`. */
static inline float *take(void *numbers, long offset, long n, int half, float *space) {
    if (!half) return (float *)numbers + offset;
    const uint16_t *from = (const uint16_t *)numbers + offset;
#pragma omp simd
    for (long j = 0; j < n; j++) space[j] = from_half(from[j]);
    return space;
}

static inline void put(void *numbers, long offset, long n, int half, const float *space) {
    if (!half) return;
    uint16_t *to = (uint16_t *)numbers + offset;
#pragma omp simd
    for (long j = 0; j < n; j++) to[j] = to_half(space[j]);
}

/* 1 / length: 0 up to `shortest`, NaN where the square of the length overflows. */
static inline float inverse_of(float length, float shortest) {
    return length <= shortest ? 0.0f : length <= 3.4e38f ? 1.0f / length : __builtin_nanf("");
}

/* inverse (K), unit (K, D) <- rows (K, D); a row up to `shortest` becomes 0, one past the squares NaN. */
void unit_rows(long K, long D, const float *rows, float shortest, float *inverse, void *unit, int half, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < K; i++) {
        const float *row = rows + i * D;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (long d = 0; d < D; d++) sum += row[d] * row[d];
        float one_over = inverse_of(__builtin_sqrtf(sum), shortest);
        inverse[i] = one_over;
        if (half) {
            uint16_t *to = (uint16_t *)unit + i * D;
#pragma omp simd
            for (long d = 0; d < D; d++) to[d] = to_half(row[d] * one_over);
        } else {
            float *to = (float *)unit + i * D;
#pragma omp simd
            for (long d = 0; d < D; d++) to[d] = row[d] * one_over;
        }
    }
}

/* What the forward sums up over the chunks, B numbers each. */
typedef struct {
    float *largest, *total, *rescale, *max_y, *num_hard, *least, *lift_sum;
} Totals;

/* The totals of no chunk; direction (B, D), or none, is their sum of class centres. */
void begin(long B, long D, const Totals *totals, float *direction) {
    const Totals t = *totals;
    for (long i = 0; i < B; i++) {
        t.largest[i] = t.max_y[i] = -__builtin_inff();
        t.least[i] = __builtin_inff();
        t.total[i] = t.rescale[i] = t.num_hard[i] = t.lift_sum[i] = 0.0f;
    }
    if (direction) memset(direction, 0, B * D * sizeof(float));
}

static inline float excess(float y, float threshold, Hard n) {
    return y > threshold ? (n.a * y + n.l) * y + n.k : 0.0f;
}

/* The largest cosine and z of a row of a chunk, and what is counted of its hard negatives; least and lifts are of N' - 1. */
typedef struct {
    float max_y, max_z, num_hard, least, lifts;
} Seen;

static Seen look_at(long K, const float *row, float bar, Hard n) {
    float inf = __builtin_inff(), max_y = -inf, max_z = -inf, least = inf, num_hard = 0.0f, lifts = 0.0f;
#pragma omp simd reduction(max : max_y, max_z) reduction(min : least) reduction(+ : num_hard, lifts)
    for (long j = 0; j < K; j++) {
        float v = row[j], z = v + excess(v, bar, n), lift = 2.0f * n.a * v + n.l;
        max_y = v > max_y ? v : max_y;
        max_z = z > max_z ? z : max_z;
        float low = v > bar ? lift : inf;
        least = low < least ? low : least;
        num_hard += v > bar ? 1.0f : 0.0f;
        lifts += v > bar ? lift : 0.0f;
    }
    return (Seen){max_y, max_z, num_hard, least, lifts};
}

/* out (K), which may be row <- the numerators times N' = 2^(z - largest) N'. Returns their sum without N'. */
static float numerators(long K, const float *row, float bar, Hard n, float largest, float *out) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (long j = 0; j < K; j++) {
        float v = row[j], p = power_of_2(v + excess(v, bar, n) - largest);
        total += p;
        out[j] = v > bar ? p + p * (2.0f * n.a * v + n.l) : p;
    }
    return total;
}

/* Both where N is the identity, in half of the time: z = y, N' = 1. */
static Seen look_at_plain(long K, const float *row, float bar) {
    float max_y = -__builtin_inff(), num_hard = 0.0f;
#pragma omp simd reduction(max : max_y) reduction(+ : num_hard)
    for (long j = 0; j < K; j++) {
        max_y = row[j] > max_y ? row[j] : max_y;
        num_hard += row[j] > bar ? 1.0f : 0.0f;
    }
    return (Seen){max_y, max_y, num_hard, __builtin_inff(), 0.0f};
}

static float plain_numerators(long K, const float *row, float largest, float *out) {
    float total = 0.0f;
#pragma omp simd reduction(+ : total)
    for (long j = 0; j < K; j++) total += out[j] = power_of_2(row[j] - largest);
    return total;
}

/* to (B, K), which may be y <- the numerators times N', and the totals take the chunk in; reference (B), or none <- what
   the numerators refer to. */
void take_in(long B, long K, void *y, int half, const int64_t *labels, long start, const float *threshold,
             Hard n, const Totals *totals, void *to, float *reference, int threads) {
    const Totals t = *totals;
    int plain = n.a == 0.0f && n.l == 0.0f && n.k == 0.0f;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < B; i++) {
        float space[BLOCK];
        float *row = take(y, i * K, K, half, space), *out = half ? space : (float *)to + i * K;
        long target = labels[i] - start;
        if (labels[i] >= 0 && target >= 0 && target < K) row[target] = ABSENT;
        float bar = threshold[i];
        Seen seen = plain ? look_at_plain(K, row, bar) : look_at(K, row, bar, n);
        float largest = seen.max_z > t.largest[i] ? seen.max_z : t.largest[i];
        float rescale = power_of_2(t.largest[i] - largest);
        float total = plain ? plain_numerators(K, row, largest, out) : numerators(K, row, bar, n, largest, out);
        put(to, i * K, K, half, out);
        t.total[i] = t.total[i] * rescale + total;
        t.largest[i] = largest;
        t.rescale[i] = rescale;
        t.max_y[i] = seen.max_y > t.max_y[i] ? seen.max_y : t.max_y[i];
        t.num_hard[i] += seen.num_hard;
        t.least[i] = seen.least < t.least[i] ? seen.least : t.least[i];
        t.lift_sum[i] += seen.lifts;
        if (reference) reference[i] = largest;
    }
}

/* sum (B, D) <- sum rescale + part. */
void add_part(long B, long D, float *sum, const float *rescale, const void *part, int half, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < B; i++) {
        float *row = sum + i * D, r = rescale[i];
        if (half) {
            const uint16_t *from = (const uint16_t *)part + i * D;
#pragma omp simd
            for (long d = 0; d < D; d++) row[d] = row[d] * r + from_half(from[d]);
        } else {
            const float *from = (const float *)part + i * D;
#pragma omp simd
            for (long d = 0; d < D; d++) row[d] = row[d] * r + from[d];
        }
    }
}

/* y (K, B) <- q N', with lse (B) in base 2. */
void coefficients(long K, long B, void *y, int half, const int64_t *labels, long start, const float *threshold,
                  Hard n, const float *lse, int threads) {
    for (long i = 0; i < B; i++) {
        long target = labels[i] - start;
        if (labels[i] < 0 || target < 0 || target >= K) continue;
        if (half) ((uint16_t *)y)[target * B + i] = to_half(ABSENT);
        else ((float *)y)[target * B + i] = ABSENT;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long c = 0; c < K; c++)
        for (long first = 0; first < B; first += BLOCK) {
            float space[BLOCK];
            long m = B - first < BLOCK ? B - first : BLOCK;
            float *row = take(y, c * B + first, m, half, space);
            const float *bar = threshold + first, *log = lse + first;
#pragma omp simd
            for (long j = 0; j < m; j++) {
                float v = row[j], q = power_of_2(v + excess(v, bar[j], n) - log[j]);
                row[j] = v > bar[j] ? q + q * (2.0f * n.a * v + n.l) : q;
            }
            put(y, c * B + first, m, half, row);
        }
}

/* out (B, D) <- x (B, D), each row times 2^(reference - lse). */
void scale_rows(long B, long D, const float *x, const float *reference, const float *lse, void *out, int half,
                int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < B; i++) {
        float share = power_of_2(reference[i] - lse[i]);
        for (long first = 0; first < D; first += BLOCK) {
            float space[BLOCK];
            long m = D - first < BLOCK ? D - first : BLOCK;
            float *to = half ? space : (float *)out + i * D + first;
#pragma omp simd
            for (long d = 0; d < m; d++) to[d] = x[i * D + first + d] * share;
            put(out, i * D + first, m, half, to);
        }
    }
}

typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t Which __attribute__((vector_size(32)));

/* rows[i][j] <- rows[j][i] */
static inline void turn(Eight rows[TILE]) {
    Eight a[TILE], b[TILE];
    for (int i = 0; i < TILE; i += 2) {
        a[i] = __builtin_shuffle(rows[i], rows[i + 1], (Which){0, 8, 1, 9, 4, 12, 5, 13});
        a[i + 1] = __builtin_shuffle(rows[i], rows[i + 1], (Which){2, 10, 3, 11, 6, 14, 7, 15});
    }
    for (int i = 0; i < TILE; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = __builtin_shuffle(a[i + j], a[i + j + 2], (Which){0, 1, 8, 9, 4, 5, 12, 13});
            b[i + 2 * j + 1] = __builtin_shuffle(a[i + j], a[i + j + 2], (Which){2, 3, 10, 11, 6, 7, 14, 15});
        }
    for (int i = 0; i < 4; i++) {
        rows[i] = __builtin_shuffle(b[i], b[i + 4], (Which){0, 1, 2, 3, 8, 9, 10, 11});
        rows[i + 4] = __builtin_shuffle(b[i], b[i + 4], (Which){4, 5, 6, 7, 12, 13, 14, 15});
    }
}

/* out (K, B) <- y (B, K) turned, its rows times 2^(reference - lse); few rows at a time, along memory. */
void turn_rows(long B, long K, const float *y, const float *reference, const float *lse, float *out,
               int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long first = 0; first < B; first += LINE) {
        float share[LINE];
        for (long i = first; i < first + LINE && i < B; i++) share[i - first] = power_of_2(reference[i] - lse[i]);
        for (long k = 0; k < K; k += LINE)
            for (long i = first; i < first + LINE && i < B; i += TILE) {
                /* The processor does not follow so many rows by itself: without this, twice the time. */
                for (long j = i; j < i + TILE && j < B; j++) __builtin_prefetch(y + j * K + k + 8 * LINE, 0, 3);
                for (long c = k; c < k + LINE && c < K; c += TILE)
                    if (i + TILE <= B && c + TILE <= K) {
                        Eight rows[TILE];
                        for (int j = 0; j < TILE; j++) rows[j] = *(const Eight *)(y + (i + j) * K + c) * share[i + j - first];
                        turn(rows);
                        for (int j = 0; j < TILE; j++) *(Eight *)(out + (c + j) * B + i) = rows[j];
                    } else
                        for (long j = i; j < i + TILE && j < B; j++)
                            for (long l = c; l < c + TILE && l < K; l++) out[l * B + j] = y[j * K + l] * share[j - first];
            }
    }
}

/* out (D) <- old out + (d - w <w, d>) inverse, with w = row inverse: the gradient through a unit row.
   Without `old` out is only written; it may be d then. */
static inline void projected(long D, const float *d, const float *row, float inverse, float *out, int old) {
    float along = 0.0f;
#pragma omp simd reduction(+ : along)
    for (long j = 0; j < D; j++) along += d[j] * row[j];
    along *= inverse * inverse;
    if (!old) {
#pragma omp simd
        for (long j = 0; j < D; j++) out[j] = (d[j] - row[j] * along) * inverse;
    } else {
#pragma omp simd
        for (long j = 0; j < D; j++) out[j] += (d[j] - row[j] * along) * inverse;
    }
}

/* out (K, D) <- the gradient in `rows` through unit rows, of d (K, D) and, for targets, x_target (B, D). */
void project(long K, long D, void *d, int half, long B, const int64_t *labels, long start, const float *x_target,
             const float *rows, const float *inverse, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < K; i++)
        projected(D, take(d, i * D, D, half, out + i * D), rows + i * D, inverse[i], out + i * D, 0);
    for (long i = 0; i < B; i++) {
        long target = labels[i] - start;
        if (labels[i] >= 0 && target >= 0 && target < K)
            projected(D, x_target + i * D, rows + target * D, inverse[target], out + target * D, 1);
    }
}

/* PReLU's backward on x (N, C), channels last: dx (N, C) <- grad, times the weight (C) where x <= 0; parts (P, C) <- sums
   over grad x where x <= 0, of a P-th of the rows each. */
void prelu_backward(long N, long C, const float *grad, const float *x, const float *weight, float *dx, long P,
                    float *parts, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long p = 0; p < P; p++) {
        float *sum = parts + p * C;
        memset(sum, 0, C * sizeof(float));
        for (long i = N * p / P; i < N * (p + 1) / P; i++) {
            const float *g = grad + i * C, *v = x + i * C;
            float *to = dx + i * C;
#pragma omp simd
            for (long c = 0; c < C; c++) {
                sum[c] += v[c] <= 0.0f ? g[c] * v[c] : 0.0f;
                to[c] = v[c] <= 0.0f ? g[c] * weight[c] : g[c];
            }
        }
    }
}

/* Large pages for the whole ones among the given bytes, where the system has them. */
void advise_large_pages(char *numbers, long bytes) {
    const uintptr_t large = 1 << 21;
    uintptr_t first = ((uintptr_t)numbers + large - 1) / large * large, last = ((uintptr_t)numbers + bytes) / large * large;
    if (last > first) madvise((void *)first, last - first, MADV_HUGEPAGE);
}
