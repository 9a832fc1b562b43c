/* What the backend openblas calls, as plain loops: tests/gpu/pack carries it in place of a library
 * of 36 MB. Tests on small models compare with it. Build with -O2 -shared. */
int openblas_get_parallel(void);
char *openblas_get_config(void);
char *openblas_get_corename(void);
void openblas_set_num_threads(int threads);
void cblas_sgemm(int order, int a_transposed, int b_transposed, int M, int N, int K, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);

#define ROW_MAJOR 101 /* of cblas.h */
#define TRANSPOSED 112

int openblas_get_parallel(void)
{
    return 1; /* threads, as the backend asks for */
}

char *openblas_get_config(void)
{
    static char text[] = "OpenBLAS 0.0.0 plain";
    return text;
}

char *openblas_get_corename(void)
{
    static char text[] = "plain";
    return text;
}

void openblas_set_num_threads(int threads)
{
    (void)threads;
}

void cblas_sgemm(int order, int a_transposed, int b_transposed, int M, int N, int K, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    if (order != ROW_MAJOR)
        __builtin_trap();
    for (long i = 0; i < M; i++)
        for (long j = 0; j < N; j++) {
            float sum = 0.0f, *to = &c[i * ldc + j];
            for (long k = 0; k < K; k++)
                sum += (a_transposed == TRANSPOSED ? a[k * lda + i] : a[i * lda + k]) *
                       (b_transposed == TRANSPOSED ? b[j * ldb + k] : b[k * ldb + j]);
            *to = (beta != 0.0f ? beta * *to : 0.0f) + alpha * sum;
        }
}
