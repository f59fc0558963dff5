
/* The work on the rows of a batch, around the passes over the classes (rows.py calls it, after passes.c).

   The formulae are those of kernels/margins, which are the specification; a comparison with NaN is false, and
   every branch is chosen so that a NaN stays one. Numbers of one row are computed in double. */

#include <math.h>

/* As `Target` and `Average` of margins/form.py, and the bounds there. */
enum { SHIFT, ARC, EASY_ARC, FACTOR, QUALITY };
enum { NOTHING, COSINES, LENGTHS };
static const double MIN_SINE = 1e-6, MIN_LENGTH = 1e-3, MAX_LENGTH = 100.0, SMALL = 1e-3, PI = 3.14159265358979323846;

/* The part of interface/whole.py's `Call` that is used here. */
typedef struct {
    int target, average, state_is_linear, exact, mean;
    double n0, n1, n2, momentum, linear, gamma, scale, square;
} Margin;

/* Numbers of each row: of the forward, and what its backward reads. */
typedef struct {
    int64_t *known;  /* labels, -1 where ignored */
    float *length, *inverse, *cosine, *threshold, *lse, *a, *v; /* threshold and lse in base 2; loss' through lse and cos_y */
} Rows;

static inline double bounded(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

/* Unit embeddings x (B, D), times base2 in the dtype of products, and the targets' unit class centres (B, D).
   Returns whether all labels are one of C classes or ignored, and all lengths finite; if not, rows may be left out. */
int enter_rows(long B, long C, long D, const float *embeddings, const float *weight, const int64_t *labels,
               int64_t ignored, float shortest, float base2, Rows to, float *x, void *x_base2, int half, float *centres,
               int threads) {
    int fits = 1;
    for (long i = 0; i < B; i++) fits &= labels[i] == ignored || (labels[i] >= 0 && labels[i] < C);
    if (!fits) return 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(& : fits)
    for (long i = 0; i < B; i++) {
        to.known[i] = labels[i] == ignored ? -1 : labels[i];
        const float *e = embeddings + i * D, *w = weight + (to.known[i] < 0 ? 0 : to.known[i]) * D;
        double squares = 0.0, squares_w = 0.0, product = 0.0;
#pragma omp simd reduction(+ : squares, squares_w, product)
        for (long d = 0; d < D; d++) {
            double a = e[d], b = w[d];
            squares += a * a;
            squares_w += b * b;
            product += a * b;
        }
        float length = __builtin_sqrtf(squares), inverse = inverse_of(length, shortest);
        float inverse_w = inverse_of(__builtin_sqrtf(squares_w), shortest), *to_x = x + i * D, *to_w = centres + i * D;
#pragma omp simd
        for (long d = 0; d < D; d++) {
            to_x[d] = e[d] * inverse;
            to_w[d] = w[d] * inverse_w;
        }
        if (half)
            for (long d = 0; d < D; d++) ((uint16_t *)x_base2)[i * D + d] = to_half(to_x[d] * base2);
        else
            for (long d = 0; d < D; d++) ((float *)x_base2)[i * D + d] = to_x[d] * base2;
        to.length[i] = length;
        to.inverse[i] = inverse;
        float both = inverse * inverse_w; /* 0 or NaN, if one of them is */
        to.cosine[i] = both > 0.0f ? product / (sqrt(squares) * sqrt(squares_w)) : both;
        fits &= length <= 3.4e38f;
    }
    return fits;
}

static void fold_in(float *average, double value, double momentum, double count) {
    if (count > 0 && isfinite(value)) *average += momentum * (value - *average);
}

/* T (return), its slope and the threshold at a target cosine; mean and deviation are AdaFace's state. */
static double target_of(const Margin *m, double c, double length, double mean, double deviation, double *slope,
                        double *threshold) {
    double square = (1.0 - c) * (1.0 + c), low = MIN_SINE * MIN_SINE;
    double sine = sqrt(square < low ? low : square), value;
    if (m->target == SHIFT) {
        *slope = 1.0;
        return *threshold = c - m->n0;
    }
    if (m->target == ARC || m->target == EASY_ARC) { /* n: cos m, sin m, m sin m */
        double lowered = c * m->n0 - sine * m->n1;
        int is_lowered = c > (m->target == ARC ? -m->n0 : 0.0);
        *threshold = lowered;
        *slope = is_lowered ? m->n0 + (square < low ? 0.0 : m->n1 * c / sine) : 1.0;
        return is_lowered ? lowered : m->target == ARC ? c - m->n2 : c;
    }
    double angle = atan2(sine, c), moved, inside, less;
    if (m->target == FACTOR) {
        moved = m->n0 * angle + m->n1;
        inside = moved > PI ? PI : moved;
        less = m->n2;
    } else {
        double quality = bounded(m->n1 * (bounded(length, MIN_LENGTH, MAX_LENGTH) - mean) / (deviation + SMALL), -1.0, 1.0);
        moved = angle - m->n0 * quality;
        inside = bounded(moved, SMALL, PI - SMALL);
        less = m->n0 * quality + m->n0;
    }
    value = cos(inside) - less;
    double fall = square < low ? sine : 1.0 / sine; /* of the angle: the bounded sine itself has no slope */
    *slope = moved == inside ? (m->target == FACTOR ? m->n0 : 1.0) * sin(inside) * fall : 0.0;
    return *threshold = value;
}

/* The state (two numbers, or fewer that are used) takes the batch in; numbers <- the state, N's linear coefficient,
   the number of rows that count. Then T, T' and the threshold of each row; a and v hold T and T' until leave_rows. */
void apply_margin(long B, const Margin *m, float base2, float *first, float *second, float *numbers, Rows rows) {
    double count = 0, sum = 0, squares = 0;
    for (long i = 0; i < B; i++)
        if (rows.known[i] >= 0) {
            count += 1;
            sum += m->average == LENGTHS ? bounded(rows.length[i], MIN_LENGTH, MAX_LENGTH) : rows.cosine[i];
        }
    double mean = sum / (count > 1 ? count : 1);
    if (m->average != NOTHING && first) fold_in(first, mean, m->momentum, count);
    if (m->average == LENGTHS && second) {
        for (long i = 0; i < B; i++)
            if (rows.known[i] >= 0) {
                double off = bounded(rows.length[i], MIN_LENGTH, MAX_LENGTH) - mean;
                squares += off * off;
            }
        fold_in(second, sqrt(squares / (count - 1)), m->momentum, count); /* of one row it is not finite */
    }
    numbers[0] = first ? *first : 0.0f;
    numbers[1] = second ? *second : 1.0f;
    numbers[2] = m->state_is_linear ? numbers[0] : m->linear;
    numbers[3] = count;
    for (long i = 0; i < B; i++) {
        double slope, threshold;
        rows.a[i] = target_of(m, rows.cosine[i], rows.length[i], numbers[0], numbers[1], &slope, &threshold);
        rows.v[i] = slope;
        /* Above infinity no negative is hard: an ignored row counts in no statistics. */
        rows.threshold[i] = rows.known[i] >= 0 ? threshold * base2 : INFINITY;
    }
}

/* Results of each row, (B,). */
typedef struct {
    float *loss, *target_cosine, *max_cosine, *lse;
    int64_t *num_hard;
    uint8_t *correct;
} Results;

/* The cross-entropy of e = lse - s T with its focal weight, and its slope. */
static double cross_entropy(double e, double gamma, double *slope) {
    double y = exp(-fabs(e)), tail = log1p(y), larger = 1.0 / (1.0 + y), smaller = y / (1.0 + y);
    double loss = (e > 0 ? e : e <= 0 ? 0.0 : e) + tail, p = e > 0 ? larger : smaller;
    *slope = p;
    if (gamma == 0.0) return loss;
    double weight = exp(-gamma * ((e > 0 ? 0.0 : -e) + tail));
    *slope = weight * (p + gamma * loss * (e > 0 ? smaller : larger));
    return loss * weight;
}

/* The losses from the totals, their slopes, and the statistics; loss <- their sum or mean, modulation <- the smallest,
   mean and largest. direction (B, D), or none, is divided by the row's total. Returns whether cosines and lse are finite. */
int leave_rows(long B, long D, const Margin *m, float base2, const float *numbers, Totals t, Rows rows, float *direction,
               Results to, float *reduced_loss, float *modulation) {
    double linear = numbers[2], sum = 0, known = 0, hard = 0, slopes = 0, low = INFINITY, high = -INFINITY;
    for (long i = 0; i < B; i++) {
        int is_valid = rows.known[i] >= 0;
        double lse = t.largest[i] + log2(t.total[i]), slope, c = rows.cosine[i], n = t.num_hard[i];
        double loss = cross_entropy(lse / base2 * m->scale - m->scale * rows.a[i], m->gamma, &slope);
        double max_cosine = t.max_y[i] / base2, over_total = 1.0 / t.total[i];
        rows.lse[i] = lse;
        rows.a[i] = is_valid ? m->scale * slope : 0.0;
        rows.v[i] = is_valid ? -m->scale * slope * (m->exact ? rows.v[i] : 1.0) : 0.0;
        to.loss[i] = is_valid ? loss : 0.0;
        to.target_cosine[i] = is_valid ? c : NAN;
        to.max_cosine[i] = max_cosine;
        to.lse[i] = lse / base2 * m->scale;
        to.num_hard[i] = n;
        to.correct[i] = is_valid && rows.cosine[i] > to.max_cosine[i];
        sum += to.loss[i];
        known += (is_valid ? c : 0.0) + lse;
        hard += n;
        slopes += m->square != 0.0 ? t.lift_sum[i] + n : linear * n;
        if (n > 0) {
            double least = m->square != 0.0 ? t.least[i] + 1.0 : linear, most = 2.0 * m->square * max_cosine + linear;
            low = least < low ? least : low;
            high = most > high ? most : high;
        }
        if (direction)
            for (long d = 0; d < D; d++) direction[i * D + d] *= over_total;
    }
    *reduced_loss = m->mean ? sum / (numbers[3] > 1 ? numbers[3] : 1) : sum;
    modulation[0] = hard > 0 ? low : NAN;
    modulation[1] = slopes / hard; /* 0 / 0 without any */
    modulation[2] = hard > 0 ? high : NAN;
    return isfinite(known);
}

/* From the gradients in the loss (one number, times `share`) and in the rows' losses (B), or none of either: the
   gradient in the embeddings, if direction is there, and x times the gradient through negatives and target (B, D). */
void return_rows(long B, long D, const float *d_loss, float share, const float *d_losses, Rows rows, const float *x,
                 const float *centres, const float *direction, float *d_embeddings, float *x_negatives, float *x_target,
                 int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < B; i++) {
        const float *row = x + i * D, *w = centres + i * D;
        float given = (d_loss ? *d_loss * share : 0.0f) + (d_losses ? d_losses[i] : 0.0f);
        if (rows.known[i] < 0) given = 0.0f; /* a gradient in the constant 0 may be infinite: that of its root is */
        float negatives = given * rows.a[i], target = given * rows.v[i];
        for (long d = 0; d < D; d++) {
            x_negatives[i * D + d] = row[d] * negatives;
            x_target[i * D + d] = row[d] * target;
        }
        if (!direction) continue;
        float *to = d_embeddings + i * D, along = 0.0f;
#pragma omp simd reduction(+ : along)
        for (long d = 0; d < D; d++) {
            to[d] = direction[i * D + d] * negatives + w[d] * target;
            along += to[d] * row[d];
        }
        for (long d = 0; d < D; d++) to[d] = (to[d] - row[d] * along) * rows.inverse[i];
    }
}
