/* Batch normalisation with the activation after it. In training: a pass for sums and a pass that writes, each way.

   Legend: x (N, C) the rows of a channels-last tensor; mean, scale ... (C). y = (x - mean) inverse weight + bias, and
   the result is y, or slope y where y <= 0 (PReLU), or 0 there (ReLU). Rows are cut into P parts whatever the number of
   threads is, and the parts' sums are added in order: the same input gives the same bits. */

#define ROWS 64           /* of a block: a first row as the origin then costs at most 6 bits of a variance */
#define MAX_CHANNELS 2048 /* as in library.py */

enum { LINEAR, PRELU, RELU };

typedef struct {
    long rows, channels, parts, threads;
    int half, activation;
    float eps;
    const float *weight, *bias, *slope;
    float *mean, *inverse, *variance; /* of this batch; the variance is the unbiased one */
    double *space;                    /* (P, 3, C) */
} Norm;

/* What a pass reads and writes, and what it needs of each channel. */
typedef struct {
    const void *x, *grad;
    void *to;
    float scale[MAX_CHANNELS], along[MAX_CHANNELS], level[MAX_CHANNELS];
} Pass;

static inline long part(const Norm *of, long p) { return of->rows * p / of->parts; }

INLINE float activated(float y, float slope, const int activation) {
    if (activation == LINEAR) return y;
    return y <= 0.0f ? (activation == PRELU ? slope * y : 0.0f) : y;
}

/* The gradient in y of one in the result. */
INLINE float to_y(float grad, float y, float slope, const int activation) {
    if (activation == LINEAR) return grad;
    return y <= 0.0f ? (activation == PRELU ? grad * slope : 0.0f) : grad;
}

/* s, q (C) <- plus the sums of x - origin and of its square over four rows, or one. */
#define ADD_MOMENTS(rows)                                                       \
    _Pragma("omp simd") for (long c = 0; c < C; c++) {                          \
        float sum = 0.0f, squares = 0.0f;                                       \
        for (int r = 0; r < rows; r++) {                                        \
            float apart = at(x, (i + r) * C + c, half) - origin[c];             \
            sum += apart;                                                       \
            squares += apart * apart;                                           \
        }                                                                       \
        s[c] += sum;                                                            \
        q[c] += squares;                                                        \
    }

/* space <- mean and sum of squared distances to it, over a part. */
INLINE void moments(const Norm *of, const Pass *pass, long p, const int half) {
    const long C = of->channels, start = part(of, p), end = part(of, p + 1);
    const void *x = pass->x;
    float origin[MAX_CHANNELS], s[MAX_CHANNELS], q[MAX_CHANNELS];
    double *mean = of->space + 3 * p * C, *squares = mean + C;
    memset(mean, 0, 2 * C * sizeof(double));
    for (long i = start; i < end;) {
        double n = i - start;
        long block = i + ROWS < end ? i + ROWS : end;
        double m = block - i, share = m / (n + m);
        for (long c = 0; c < C; c++) origin[c] = at(x, i * C + c, half), s[c] = q[c] = 0.0f;
        for (; i + 4 <= block; i += 4) ADD_MOMENTS(4)
        for (; i < block; i++) ADD_MOMENTS(1)
#pragma omp simd
        for (long c = 0; c < C; c++) {
            double own = s[c] / m, apart = origin[c] + own - mean[c];
            mean[c] += apart * share;
            squares[c] += q[c] - s[c] * own + apart * apart * n * share;
        }
    }
}

/* The moments of all parts become those of the batch. */
static void join(const Norm *of) {
    const long C = of->channels;
    double *mean = of->space, *squares = mean + C;
    for (long p = 1; p < of->parts; p++) {
        double n = part(of, p), m = part(of, p + 1) - part(of, p), share = m / (n + m);
        const double *other = of->space + 3 * p * C;
#pragma omp simd
        for (long c = 0; c < C; c++) {
            double apart = other[c] - mean[c];
            mean[c] += apart * share;
            squares[c] += other[C + c] + apart * apart * n * share;
        }
    }
    for (long c = 0; c < C; c++) {
        double sum = squares[c] < 0.0 ? 0.0 : squares[c]; /* NaN stays */
        of->mean[c] = mean[c];
        of->inverse[c] = 1.0 / sqrt(sum / of->rows + of->eps);
        of->variance[c] = sum / (of->rows - 1);
    }
}

INLINE void write_out(const Norm *of, const Pass *pass, long p, const int half, const int activation) {
    const long C = of->channels;
    const float *scale = pass->scale, *mean = of->mean, *bias = of->bias, *slope = of->slope;
    for (long i = part(of, p); i < part(of, p + 1); i++) {
#pragma omp simd
        for (long c = 0; c < C; c++) {
            float y = (at(pass->x, i * C + c, half) - mean[c]) * scale[c] + bias[c];
            put(pass->to, i * C + c, activated(y, activation == PRELU ? slope[c] : 0.0f, activation), half);
        }
    }
}

/* a, b, d (C) <- plus the sums over four rows, or one, of the gradient in y, of it times x - mean, and of the slope's. */
#define ADD_SUMS(rows)                                                                          \
    _Pragma("omp simd") for (long c = 0; c < C; c++) {                                          \
        float sum = 0.0f, along = 0.0f, bent = 0.0f, k = activation == PRELU ? slope[c] : 0.0f; \
        for (int r = 0; r < rows; r++) {                                                        \
            float u = at(x, (i + r) * C + c, half) - mean[c], y = u * scale[c] + bias[c];       \
            float e = at(grad, (i + r) * C + c, half), g = to_y(e, y, k, activation);           \
            sum += g;                                                                           \
            along += g * u;                                                                     \
            bent += y <= 0.0f ? e * y : 0.0f;                                                   \
        }                                                                                       \
        a[c] += sum;                                                                            \
        b[c] += along;                                                                          \
        if (activation == PRELU) d[c] += bent;                                                  \
    }

/* space <- those sums over a part. */
INLINE void sums(const Norm *of, const Pass *pass, long p, const int half, const int activation) {
    const long C = of->channels, end = part(of, p + 1);
    const void *x = pass->x, *grad = pass->grad;
    const float *scale = pass->scale, *bias = of->bias, *mean = of->mean, *slope = of->slope;
    float a[MAX_CHANNELS], b[MAX_CHANNELS], d[MAX_CHANNELS];
    double *sum = of->space + 3 * p * C;
    memset(sum, 0, 3 * C * sizeof(double));
    for (long i = part(of, p); i < end;) {
        long block = i + ROWS < end ? i + ROWS : end;
        for (long c = 0; c < C; c++) a[c] = b[c] = d[c] = 0.0f;
        for (; i + 4 <= block; i += 4) ADD_SUMS(4)
        for (; i < block; i++) ADD_SUMS(1)
#pragma omp simd
        for (long c = 0; c < C; c++) sum[c] += a[c], sum[C + c] += b[c], sum[2 * C + c] += d[c];
    }
}

INLINE void write_dx(const Norm *of, const Pass *pass, long p, const int half, const int activation) {
    const long C = of->channels;
    const float *along = pass->along, *level = pass->level;
    const float *scale = pass->scale, *bias = of->bias, *mean = of->mean, *slope = of->slope;
    for (long i = part(of, p); i < part(of, p + 1); i++) {
#pragma omp simd
        for (long c = 0; c < C; c++) {
            float u = at(pass->x, i * C + c, half) - mean[c], k = activation == PRELU ? slope[c] : 0.0f;
            float g = to_y(at(pass->grad, i * C + c, half), u * scale[c] + bias[c], k, activation);
            put(pass->to, i * C + c, (g - level[c] - u * along[c]) * scale[c], half);
        }
    }
}

/* `call` for each part, with constants for the kind of number and activation, so that its loops hold no choice. */
#define FOR_EACH_PART(call)                                            \
    _Pragma("omp parallel for num_threads(of->threads) schedule(static)") \
    for (long p = 0; p < of->parts; p++)                                  \
        switch (2 * of->activation + (of->half != 0)) {                   \
        case 2 * LINEAR: call(of, pass, p, 0, LINEAR); break;             \
        case 2 * LINEAR + 1: call(of, pass, p, 1, LINEAR); break;         \
        case 2 * PRELU: call(of, pass, p, 0, PRELU); break;               \
        case 2 * PRELU + 1: call(of, pass, p, 1, PRELU); break;           \
        case 2 * RELU: call(of, pass, p, 0, RELU); break;                 \
        case 2 * RELU + 1: call(of, pass, p, 1, RELU); break;             \
        }

static void find_scale(const Norm *of, Pass *pass) {
    for (long c = 0; c < of->channels; c++) pass->scale[c] = of->inverse[c] * of->weight[c];
}

void norm_forward(const Norm *of, const void *x, void *to) {
    Pass now = {.x = x, .to = to}, *pass = &now;
#pragma omp parallel for num_threads(of->threads) schedule(static)
    for (long p = 0; p < of->parts; p++)
        if (of->half) moments(of, pass, p, 1);
        else moments(of, pass, p, 0);
    join(of);
    find_scale(of, pass);
    FOR_EACH_PART(write_out)
}

/* y = x scale + level with one rounding, as torch 2.13 has it in float32 on x86: the bits are the same there. */
INLINE void write_line(const Norm *of, const Pass *pass, long p, const int half, const int activation) {
    const long C = of->channels;
    const float *scale = pass->scale, *level = pass->level, *slope = of->slope;
    for (long i = part(of, p); i < part(of, p + 1); i++) {
#pragma omp simd
        for (long c = 0; c < C; c++) {
            float y = fmaf(at(pass->x, i * C + c, half), scale[c], level[c]);
            put(pass->to, i * C + c, activated(y, activation == PRELU ? slope[c] : 0.0f, activation), half);
        }
    }
}

/* By `mean` and `variance` of earlier batches, in the memory of x. */
void norm_by_running(const Norm *of, void *x) {
    Pass now = {.x = x, .to = x}, *pass = &now;
    for (long c = 0; c < of->channels; c++) {
        pass->scale[c] = 1.0f / sqrtf(of->variance[c] + of->eps) * of->weight[c];
        pass->level[c] = fmaf(-of->mean[c], pass->scale[c], of->bias[c]);
    }
    FOR_EACH_PART(write_line)
}

/* dx may be null: then it is not needed. */
void norm_backward(const Norm *of, const void *x, const void *grad, void *dx, float *d_weight, float *d_bias, float *d_slope) {
    const long C = of->channels;
    Pass now = {.x = x, .grad = grad, .to = dx}, *pass = &now;
    find_scale(of, pass);
    FOR_EACH_PART(sums)
    for (long p = 1; p < of->parts; p++)
        for (long c = 0; c < 3 * C; c++) of->space[c] += of->space[3 * p * C + c];
    for (long c = 0; c < C; c++) {
        double to_bias = of->space[c], to_weight = of->space[C + c] * of->inverse[c];
        d_bias[c] = to_bias;
        d_weight[c] = to_weight;
        d_slope[c] = of->space[2 * C + c];
        pass->level[c] = to_bias / of->rows;
        pass->along[c] = to_weight * of->inverse[c] / of->rows;
    }
    if (dx) FOR_EACH_PART(write_dx)
}
