"""BatchNorm of f, g and q (pseudo-code J.1)."""

import haiku as hk
import jax
import jax.numpy as jnp

from byol_jax.runtime import spmd


class BatchNorm(hk.Module):
    """Haiku's layer with its names, and a variance that is never below 0 (docs/deviations.md, 17).

    Haiku takes the variance as E[x^2] - E[x]^2. Of thousands of equal values, which is what a
    collapsed network gives, rounding makes it less than -eps, and the output NaN.

    Args:
      create_scale, create_offset: whether the outputs have a trained factor and offset.
      decay_rate: decay of the moving averages.
      eps: constant added to the variance.
      scale_init: initial scale; by default 1.
      cross_replica_axis: mapped axis whose devices share the statistics of a batch; None for none.
    """

    def __init__(
        self,
        create_scale: bool,
        create_offset: bool,
        decay_rate: float,
        eps: float = 1e-5,
        scale_init: hk.initializers.Initializer = jnp.ones,
        cross_replica_axis: str | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.create_scale, self.create_offset = create_scale, create_offset
        self.eps, self.scale_init = eps, scale_init
        self.cross_replica_axis = cross_replica_axis
        self.mean_ema = hk.ExponentialMovingAverage(decay_rate, name="mean_ema")
        self.var_ema = hk.ExponentialMovingAverage(decay_rate, name="var_ema")

    def __call__(self, inputs: jax.Array, is_training: bool) -> jax.Array:
        """Maps `[B, ..., C]` to the same shape, normalised over all axes but the last.

        Args:
          inputs: `[B, ..., C]`.
          is_training: whether the statistics are those of the batch, over all devices of the
            mapped axis, and update the moving averages; otherwise they are the moving averages.
        """
        if is_training:
            axes = tuple(range(inputs.ndim - 1))
            # XLA joins the collectives of a layer; one of both would take it longer to compile.
            mean, mean_of_squares = (
                spmd.pmean(jnp.mean(x, axes, keepdims=True), self.cross_replica_axis)
                for x in (inputs, jnp.square(inputs))
            )
            variance = jnp.maximum(mean_of_squares - jnp.square(mean), 0)
            self.mean_ema(mean)
            self.var_ema(variance)
        else:
            mean, variance = (
                ema.average.astype(inputs.dtype) for ema in (self.mean_ema, self.var_ema)
            )
        shape = (1,) * (inputs.ndim - 1) + inputs.shape[-1:]
        factor = jax.lax.rsqrt(variance + jnp.asarray(self.eps, variance.dtype))
        if self.create_scale:
            factor *= hk.get_parameter("scale", shape, inputs.dtype, self.scale_init)
        outputs = (inputs - mean) * factor
        if self.create_offset:
            outputs += hk.get_parameter("offset", shape, inputs.dtype, jnp.zeros)
        return outputs
