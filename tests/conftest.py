"""Settings for every test: strict dtypes, no silent broadcasting of ranks, fixed examples."""

import hypothesis
import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

for name, examples in (("full", 200), ("usual", 50), ("quick", 25)):
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("usual")
