"""A user's mistake, as a library call says it."""

import pytest

from reasonir.core.errors import UserError


def refused(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        result = call(*arguments, **options)
        list(result)
    assert "\n" not in str(caught.value)
    return str(caught.value)
