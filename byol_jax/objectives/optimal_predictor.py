"""The predictor that is the best linear map for each batch (BYOL App. J.2)."""

import chex
import jax
import jax.numpy as jnp

from byol_jax.objectives.normalize import at_least_float32, exact_matmul
from byol_jax.runtime import spmd


def optimal_linear_predictor(
    online_projection: jax.Array, target_projection: jax.Array, axis: str | None = None
) -> jax.Array:
    """Q = argmin |Z Q - Z'|^2 = (Z^T Z)^-1 Z^T Z', on this batch (BYOL App. J.2).

    Q is behind a stop-gradient, so gradients reach Z through the product Z Q alone. By the envelope
    theorem this is the whole gradient (App. I).

    Z^T Z has the squared condition number of Z. Its eigenvalues below 10 F eps of the largest are
    rounding errors; in float32 with F = 16 they belong to singular values of Z below 0.0044 of the
    largest. They are cut off: Q is then the solution of least norm, and a collapsed Z gives no NaN.
    The remaining part has a relative error of about eps cond(Z)^2.

    Args:
      online_projection: Z, the rows of this device, `[B, F]`.
      target_projection: Z', the rows of this device, `[B, F]`.
      axis: mapped axis; the minimum is over the rows of all its devices.

    Returns:
      Q, `[F, F]`, in float32 or wider; the prediction is Z Q.
    """
    chex.assert_rank([online_projection, target_projection], 2)
    chex.assert_equal_shape_prefix([online_projection, target_projection], 1)
    z, target = (
        jax.lax.stop_gradient(at_least_float32(x)) for x in (online_projection, target_projection)
    )
    # Means over the devices replace sums, since a common factor cancels.
    gram, cross = spmd.pmean((exact_matmul(z.T, z), exact_matmul(z.T, target)), axis)
    cutoff = 10 * z.shape[1] * float(jnp.finfo(z.dtype).eps)
    return exact_matmul(jnp.linalg.pinv(gram, rtol=cutoff, hermitian=True), cross)
