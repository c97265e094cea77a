"""Whether JAX finds the devices that it is told to use."""

import jax

from byol_jax.errors import UserError


def is_missing(error: BaseException) -> bool:
    """Whether JAX raised this error because a platform cannot be used here."""
    return "initialize backend" in str(error) or isinstance(error, AssertionError)


def check() -> None:
    """Starts JAX's devices. Processes that train together have to be joined before.

    Raises:
      UserError: JAX_PLATFORMS names a platform that JAX does not have here, or JAX finds no device
        that it can use.
    """
    given = jax.config.values["jax_platforms"]
    try:
        jax.devices()
    except Exception as error:
        if not is_missing(error):
            raise
        # JAX says of some platforms nothing but that an assertion failed.
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].partition("\n")[0]
        what = f"JAX_PLATFORMS={given}: JAX" if given else "JAX"
        remedy = "install its plugin (README.md), or set JAX_PLATFORMS=cpu"
        if given:
            remedy += ", or to nothing, so that JAX chooses"
        message = f"{what} cannot use this platform ({reason or 'not installed'}): {remedy}"
        raise UserError(message) from error
