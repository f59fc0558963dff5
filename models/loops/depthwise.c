/* The backward of depthwise convolutions: 3x3 with padding 1 and stride 2, and one filter over the whole image.

   Legend: x, dx (B, height, width, C), grad (B, out_height, out_width, C), weight (3 x 3, C). Images are cut into P parts
   whatever the number of threads is, and the parts' sums are added in order: the same input gives the same bits. */

typedef struct {
    long images, height, width, out_height, out_width, channels, parts, threads;
    int half;
    const float *weight;
    float *space; /* (P, 9, C in whole vectors) */
    float *rows;  /* (P, 2, C in vectors, out_width + 2, LANES) */
} Depthwise;

INLINE long vectors(long C) { return (C + LANES - 1) / LANES; }
INLINE V *place(const Depthwise *of, V *row, long v) { return row + v * (of->out_width + 2); }

/* row (C in vectors, out_width + 2) <- a row of the gradient between two zeros; all zeros outside the image. */
INLINE void fill(const Depthwise *of, const void *grad, long image, long i, V *row, const int half) {
    const long C = of->channels, W = of->out_width;
    int outside = i < 0 || i >= of->out_height;
    for (long v = 0; v < vectors(C); v++) {
        V *to = place(of, row, v), none = {0};
        to[0] = to[W + 1] = none;
        if (outside)
            for (long j = 0; j < W; j++) to[1 + j] = none;
        else
            for (long j = 0; j < W; j++) {
                long from = ((image * of->out_height + i) * W + j) * C + v * LANES;
                to[1 + j] = lanes_at(grad, from, C - v * LANES, half);
            }
    }
}

/* Rows 2 i and 2 i + 1 of dx and their share: four pixels of x meet four of grad, the first one tap, the last four. */
INLINE void two_rows(const Depthwise *of, long image, long i, V *const rows[2], const void *x, void *dx, V *sums, long v,
                     const int half) {
    const long C = of->channels, W = of->width, n = C - v * LANES;
    const V *mid = place(of, rows[0], v), *down = place(of, rows[1], v), none = {0};
    int has_below = 2 * i + 1 < of->height;
    V k[9], s[9];
    for (int t = 0; t < 9; t++) k[t] = lanes_at(of->weight + t * C, v * LANES, n, 0), s[t] = sums[t * vectors(C) + v];
    for (long j = 0; j < of->out_width; j++) {
        long here = ((image * of->height + 2 * i) * W + 2 * j) * C + v * LANES, below = here + W * C;
        int has_right = 2 * j + 1 < W;
        V g = mid[j + 1], r = mid[j + 2], d = down[j + 1], e = down[j + 2];
        V a = lanes_at(x, here, n, half), b = has_right ? lanes_at(x, here + C, n, half) : none;
        V c = has_below ? lanes_at(x, below, n, half) : none;
        V f = has_below && has_right ? lanes_at(x, below + C, n, half) : none;
        s[0] += e * f, s[1] += d * c, s[2] += d * f;
        s[3] += r * b, s[4] += g * a, s[5] += g * b;
        s[6] += r * f, s[7] += g * c, s[8] += g * f;
        put_lanes(dx, here, n, g * k[4], half);
        if (has_right) put_lanes(dx, here + C, n, r * k[3] + g * k[5], half);
        if (has_below) put_lanes(dx, below, n, d * k[1] + g * k[7], half);
        if (has_below && has_right) put_lanes(dx, below + C, n, e * k[0] + d * k[2] + r * k[6] + g * k[8], half);
    }
    for (int t = 0; t < 9; t++) sums[t * vectors(C) + v] = s[t];
}

INLINE void part_back(const Depthwise *of, const void *x, const void *grad, void *dx, long p, const int half) {
    const long C = of->channels, size = vectors(C) * (of->out_width + 2);
    V *sums = (V *)of->space + p * 9 * vectors(C), *ring = (V *)of->rows + p * 2 * size;
    memset(sums, 0, 9 * vectors(C) * sizeof(V));
    for (long image = of->images * p / of->parts; image < of->images * (p + 1) / of->parts; image++) {
        V *rows[2] = {ring, ring + size};
        for (int r = 0; r < 2; r++) fill(of, grad, image, r, rows[r], half);
        for (long i = 0; i < of->out_height; i++) {
            for (long v = 0; v < vectors(C); v++) two_rows(of, image, i, rows, x, dx, sums, v, half);
            V *oldest = rows[0];
            rows[0] = rows[1], rows[1] = oldest;
            fill(of, grad, image, i + 2, oldest, half);
        }
    }
}

/* dx, and d_weight (9, C). */
void depthwise_backward(const Depthwise *of, const void *x, const void *grad, void *dx, float *d_weight) {
    const long C = of->channels, padded = vectors(C) * LANES;
#pragma omp parallel for num_threads(of->threads) schedule(static)
    for (long p = 0; p < of->parts; p++)
        if (of->half) part_back(of, x, grad, dx, p, 1);
        else part_back(of, x, grad, dx, p, 0);
    for (long t = 0; t < 9; t++)
        for (long c = 0; c < C; c++) {
            float sum = 0.0f;
            for (long p = 0; p < of->parts; p++) sum += of->space[(p * 9 + t) * padded + c];
            d_weight[t * C + c] = sum;
        }
}

INLINE void part_of_global(const Depthwise *of, const void *x, const void *grad, void *dx, float *d_weight, long p, const int half) {
    const long C = of->channels, B = of->images, positions = of->height * of->width;
    for (long t = positions * p / of->parts; t < positions * (p + 1) / of->parts; t++) {
        const float *weight = of->weight + t * C;
        float *sum = d_weight + t * C;
        for (long c = 0; c < C; c++) sum[c] = 0.0f;
        for (long b = 0; b < B; b++) {
            long here = (b * positions + t) * C;
#pragma omp simd
            for (long c = 0; c < C; c++) {
                float g = at(grad, b * C + c, half);
                sum[c] += g * at(x, here + c, half);
                put(dx, here + c, g * weight[c], half);
            }
        }
    }
}

/* The same for one filter (height x width, C) over the whole image; grad (B, C). */
void global_depthwise_backward(const Depthwise *of, const void *x, const void *grad, void *dx, float *d_weight) {
#pragma omp parallel for num_threads(of->threads) schedule(static)
    for (long p = 0; p < of->parts; p++)
        if (of->half) part_of_global(of, x, grad, dx, d_weight, p, 1);
        else part_of_global(of, x, grad, dx, d_weight, p, 0);
}
