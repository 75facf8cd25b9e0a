"""Where models that were logged before the loader moved look for it."""

from lavise.flows.serving.explainer_pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
