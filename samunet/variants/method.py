"""What an adaptation method offers planning, training and prediction; nothing here needs torch."""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from samunet.core.codec import decode, encode
from samunet.core.geometry import Shape
from samunet.core.plan import Preference, Topology
from samunet.core.plugins import PACKAGE, installed_methods, refuse_unknown_variant
from samunet.errors import ConfigError, SamunetError, did_you_mean
from samunet.models.spec import NetworkSpec
from samunet.sam.backbones import Backbone

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from samunet.models.segmenter import SlabSegmenter

C = TypeVar("C")
P = TypeVar("P")
ATTRIBUTE = "METHOD"  # of a method in its module


@dataclass(frozen=True, kw_only=True)
class Convolutions(Generic[C]):
    """What a method with a convolutional path says of it, so that the encoder's grid never costs the patch."""

    without_encoder: Mapping[str, Any]
    """Options that leave the encoder out, and their values."""
    sparing: Mapping[str, Any]
    """Options with which a step needs less memory and more time, and their values."""
    operations: Callable[[NetworkSpec, Backbone, C], float]
    """Estimates the multiply-adds of one sample's training step."""


@dataclass(frozen=True, kw_only=True)
class Method(Generic[C]):
    """A way of adapting SAM. Its module holds one, METHOD; C is the type of its configuration."""

    source: str
    """The publication, or what the method composes."""
    starts_as: Literal["sam", "unet"] | None
    """What the network equals at step 0: SAM's encoder, the plain U-Net, or neither."""
    slices_meet: bool
    """True where a slice's logits depend on the other slices of its slab."""
    without_gradient: Mapping[str, str] = field(default_factory=dict)
    """Prefix of parameter names that the loss does not reach, or not in every step, to the reason."""
    config: type[C]
    """Frozen dataclass of options; every field has a default and a text below it."""
    build: Callable[[Sam, NetworkSpec, C], SlabSegmenter]
    """Composes the network; imports torch where it is called, not before."""
    preferred: Callable[[Topology, Shape, float], tuple[Preference, ...]]
    """Returns encoder scales for a topology, a patch and the smallest class's diameter in voxels, best first."""
    cost: Callable[[NetworkSpec, Backbone, int, C], float]
    """Estimates the memory of one training step in GiB, for a batch size."""
    prompted: bool = False
    """True where the network segments what prompts show."""
    convolutions: Convolutions[C] | None = None
    """For a method with a convolutional path beside SAM's encoder."""

    def with_prompts(
        self,
        without_gradient: Mapping[str, str],
        *,
        config: type[P],
        build: Callable[[Sam, NetworkSpec, P], SlabSegmenter],
        cost: Callable[[NetworkSpec, Backbone, int, P], float],
    ) -> Method[P]:
        """Return the method that segments what prompts show by the same adaptation of SAM."""
        return Method(
            source=self.source,
            starts_as=self.starts_as,
            slices_meet=self.slices_meet,
            without_gradient=without_gradient,
            config=config,
            build=build,
            preferred=self.preferred,
            cost=cost,
            prompted=True,
        )

    def read(self, options: Mapping[str, Any], where: str) -> C:
        """Build the configuration from options as plans hold them, flat.

        A field of the configuration whose default is a dataclass is a part: its fields are options beside the others.

        Args:
            options: name to value.
            where: they stand, for messages.

        Raises:
            ConfigError: an option is unknown (the nearest is named), or its value does not fit.
        """
        fields = dataclasses.fields(self.config)  # type: ignore[arg-type]
        parts = {field.name: field.default for field in fields if dataclasses.is_dataclass(field.default)}
        of_parts = {name: {field.name for field in dataclasses.fields(part)} for name, part in parts.items()}
        own = {field.name for field in fields} - set(parts)
        names = own.union(*of_parts.values())
        for name in options:
            if name not in names:
                raise ConfigError(f"{where}: unknown key '{name}'.{did_you_mean(name, names)}")
        values: dict[str, Any] = {}
        for name, part in parts.items():
            given = {option: value for option, value in options.items() if option in of_parts[name]}
            values[name] = decode(type(part), encode(part) | given, where)
        hints = typing.get_type_hints(self.config, include_extras=True)
        values |= {name: decode(hints[name], options[name], f"{where}.{name}") for name in own & set(options)}
        try:
            return self.config(**values)
        except SamunetError as error:  # its own checks do not know where the options stand
            raise ConfigError(f"{where}: {error}") from None


def load_variant(name: str) -> Method[Any]:
    """Import one adaptation method and nothing else.

    Raises:
        ConfigError: no method has that name (the nearest is named), or an installed package offers something else.
    """
    place = installed_methods().get(name)
    if place is not None:
        module, _, attribute = place.partition(":")
        method = getattr(importlib.import_module(module), attribute or ATTRIBUTE, None)
        if not isinstance(method, Method):
            raise ConfigError(
                f"An installed package offers the method '{name}' as {place}, which gives no "
                f"samunet.variants.method.Method with the name {attribute or ATTRIBUTE}. Update the package, or remove "
                "it."
            )
        return method
    refuse_unknown_variant(name)
    method = importlib.import_module(f"{PACKAGE}.{name}").METHOD
    return typing.cast("Method[Any]", method)
