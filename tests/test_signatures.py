"""Public functions have their real parameters in the signature, so that help, editors and type checkers show them."""

import inspect

import pytest

import slide
import slide.data
import slide.distributed
import slide.lsh
import slide.metrics
import slide.runs

OPTIONS_OF_ANOTHER = {
    # What they take is in their docstring: the options of one other function, or whatever a subclass is made with.
    "LSHConfig.auto",
    "HashFamily.__init__",
}


def public_functions():
    """Every public function, and every method of a public class, by name."""
    modules = {slide: slide.__all__, slide.data: slide.data.__all__, slide.distributed: slide.distributed.__all__}
    modules |= {slide.lsh: slide.lsh.__all__, slide.runs: slide.runs.__all__}
    for module, names in modules.items():
        for name in names:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                yield name, thing
            elif inspect.isclass(thing):
                for method, function in inspect.getmembers(thing, callable):
                    own = inspect.isfunction(inspect.unwrap(function)) or inspect.ismethod(function)
                    home = getattr(function, "__module__", "") or ""
                    if own and home.startswith("slide") and (method == "__init__" or not method.startswith("_")):
                        yield f"{name}.{method}", function


FUNCTIONS = dict(public_functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_are_named(name):
    kinds = {parameter.kind for parameter in inspect.signature(FUNCTIONS[name]).parameters.values()}
    if name not in OPTIONS_OF_ANOTHER:
        assert inspect.Parameter.VAR_KEYWORD not in kinds
        assert inspect.Parameter.VAR_POSITIONAL not in kinds


def test_a_network_shows_its_parameters():
    parameters = set(inspect.signature(slide.Network).parameters)
    assert {"n_features", "config", "threads", "comm", "distribution"} <= parameters
    assert {"config", "validation", "resume", "comm"} <= set(inspect.signature(slide.Network.fit).parameters)
    with pytest.raises(TypeError, match="epochs"):
        slide.Network(3, 3).fit([[1.0, 0, 0]], [[1, 0, 0]], epochs=3)
