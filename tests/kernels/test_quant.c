/* Block formats: the oracle against another implementation's values, packing against the oracle. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/quant.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "kernels/dtype.h"
#include "tests/kernels/dequant_golden.h"
#include "tests/kernels/rig.h"

TEST(dequantize_gives_the_values_of_the_gguf_package)
{
    for (size_t i = 0; i < sizeof(goldens) / sizeof(goldens[0]); i++) {
        float got[256];
        ref_dequantize(goldens[i].dtype, goldens[i].block, goldens[i].n, got);
        for (int k = 0; k < goldens[i].n; k++)
            assert_close(got[k], goldens[i].value[k], 1e-7, 1e-6);
    }
}

TEST(packed_rows_are_the_rows_that_went_in)
{
    static const enum dtype types[] = { DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0,
                                        DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,
                                        DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K };
    enum { N_ROW = 37, N_COL = 512 };
    uint64_t seed = 2;
    for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
        struct weight file = random_weight(&seed, types[t], N_ROW, N_COL, 1.0f);
        struct packed w;
        float got[N_COL], want[N_COL];
        int64_t row_bytes = dtype_bytes(types[t], N_COL);
        assert_true(packed_shape(types[t], N_ROW, N_COL, &w));
        w.data = calloc(1, (size_t)(w.group_bytes * w.n_group));
        packed_fill(&w, 0, 16, file.data, row_bytes);
        packed_fill(&w, 16, N_ROW - 16, (char *)file.data + 16 * row_bytes, row_bytes);
        for (int r = 0; r < N_ROW; r++) {
            packed_row(&w, r, got);
            ref_dequantize(types[t], (char *)file.data + r * row_bytes, N_COL, want);
            for (int k = 0; k < N_COL; k++)
                assert_close(got[k], want[k], 1e-6, 1e-6);
        }
        free(w.data);
        free(file.data);
    }
}

TEST(packed_shape_refuses_foreign_types_and_part_blocks)
{
    struct packed w;
    assert_false(packed_shape(DTYPE_I8, 1, 32, &w));
    assert_false(packed_shape((enum dtype)-1, 1, 32, &w));
    assert_false(packed_shape(DTYPE_Q8_0, 1, 48, &w));
    assert_false(packed_shape(DTYPE_Q8_0, 0, 32, &w));
    assert_true(packed_shape(DTYPE_F16, 1, 1, &w));
}
