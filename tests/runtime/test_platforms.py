import jax
import pytest

from byol_jax.errors import UserError
from byol_jax.runtime import platforms

UNKNOWN = "Unable to initialize backend 'cup': it is not known. (set JAX_PLATFORMS='' to choose)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError(UNKNOWN), "'cup': it is not known."), (AssertionError(), "not installed")],
)
def test_a_platform_that_is_missing_is_named_with_its_variable(monkeypatch, error, reason):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", "cup")
    try:
        with pytest.raises(UserError) as caught:
            platforms.check()
    finally:
        jax.config.update("jax_platforms", before)
    assert str(caught.value).startswith("JAX_PLATFORMS=cup: JAX cannot use this platform (")
    assert reason in str(caught.value) and "set JAX_PLATFORMS=cpu" in str(caught.value)


def test_other_errors_stay(monkeypatch):
    def devices():
        raise RuntimeError("a bug")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(RuntimeError, match="a bug"):
        platforms.check()
