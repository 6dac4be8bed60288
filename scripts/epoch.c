/* An epoch of mini-batch SGD by BP1 to BP4 in plain loops: sigmoid layers, cross-entropy.

   What a C compiler makes of it is a measure for `python scripts/bench.py dense`, which compiles
   it with the numbers of inputs (K), hidden neurons (J), outputs (I) and examples of a mini-batch
   (M), of which n is a multiple. */

#include <math.h>

static float sigmoid(float z) { return 1 / (1 + expf(-z)); }

void epoch(long n, const unsigned char *images, const long *labels, const long *order, float eta,
           float w1[J][K], float b1[J], float w2[I][J], float b2[I]) {
    float x[M][K], a1[M][J], delta1[M][J], delta2[M][I], rate = eta / M;
    for (long start = 0; start < n; start += M) {
        const long *rows = order + start;
        for (int m = 0; m < M; m++)
            for (int k = 0; k < K; k++) x[m][k] = images[K * rows[m] + k] * (1 / 255.0f);
        for (int j = 0; j < J; j++)
            for (int m = 0; m < M; m++) {
                float z = b1[j];
                for (int k = 0; k < K; k++) z += w1[j][k] * x[m][k];
                a1[m][j] = sigmoid(z);
            }
        for (int m = 0; m < M; m++)
            for (int i = 0; i < I; i++) {
                float z = b2[i];
                for (int j = 0; j < J; j++) z += w2[i][j] * a1[m][j];
                delta2[m][i] = sigmoid(z) - (labels[rows[m]] == i); /* BP1 */
            }
        for (int m = 0; m < M; m++)
            for (int j = 0; j < J; j++) {
                float back = 0;
                for (int i = 0; i < I; i++) back += w2[i][j] * delta2[m][i];
                delta1[m][j] = back * a1[m][j] * (1 - a1[m][j]); /* BP2 */
            }
        for (int i = 0; i < I; i++)
            for (int m = 0; m < M; m++) {
                float change = rate * delta2[m][i];
                b2[i] -= change; /* BP3 */
                for (int j = 0; j < J; j++) w2[i][j] -= change * a1[m][j]; /* BP4 */
            }
        for (int j = 0; j < J; j++)
            for (int m = 0; m < M; m++) {
                float change = rate * delta1[m][j];
                b1[j] -= change;
                for (int k = 0; k < K; k++) w1[j][k] -= change * x[m][k];
            }
    }
}
