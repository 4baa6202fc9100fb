"""scikit-learn's base classes for estimators or, where it is not installed, the little of them that is needed."""

from __future__ import annotations

import inspect
from typing import Any

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import DataConversionWarning, NotFittedError
except ModuleNotFoundError:

    class NotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """A method needs a fitted estimator, but ``fit`` has not been called."""

    class DataConversionWarning(UserWarning):  # type: ignore[no-redef]
        """Data is converted to another form than the one that it has."""

    class ClassifierMixin:  # type: ignore[no-redef]
        """An empty class: scikit-learn's mixin adds what only scikit-learn needs."""

    class BaseEstimator:  # type: ignore[no-redef]
        """An estimator whose parameters are those of its ``__init__``."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """Return the parameters by name; `deep` has no effect."""
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

        def set_params(self, **params: Any) -> BaseEstimator:
            """Set parameters by name and return the estimator; an unknown name raises ValueError."""
            known = self.get_params()
            for name, value in params.items():
                if name not in known:
                    raise ValueError(f"Invalid parameter {name!r} for {self!r}; valid ones are {', '.join(known)}")
                setattr(self, name, value)
            return self

        def __repr__(self) -> str:
            default = inspect.signature(type(self)).parameters
            changed = {n: v for n, v in self.get_params().items() if v is not default[n].default}
            return f"{type(self).__name__}({', '.join(f'{n}={v!r}' for n, v in changed.items())})"
