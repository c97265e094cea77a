"""What errors say."""

import pytest

from byol_jax import errors
from byol_jax.errors import GuardError, UserError


def test_a_title_stands_before_what_is_wrong() -> None:
    with pytest.raises(UserError) as found, errors.titled("config.dataset=folder:x"):
        errors.require(False, "it has no images")
    assert str(found.value) == "config.dataset=folder:x: it has no images"
    assert isinstance(found.value.__cause__, UserError)


@pytest.mark.parametrize("error", [GuardError("the disk is full"), KeyError("x")])
def test_only_a_mistake_of_the_user_has_the_title(error: Exception) -> None:
    with pytest.raises(type(error)) as found, errors.titled("config.dataset=folder:x"):
        raise error
    assert found.value is error
