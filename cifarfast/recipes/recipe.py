"""Recipe: every setting of a training run, in one frozen dataclass.

A recipe comes from defaults < recipe file (TOML) < command line. The flags, the keys of a recipe file and the keys of a
run's ``config.toml`` are the field names below. A recipe file may also have an ``[about]`` table (see ``About``).
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tomli_w
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..augment import AugmentSettings
from ..data import Background
from ..errors import UserError, nearest
from ..runtime.files import read_bounded, user_path

Positive = Annotated[int, Ge(1)]
Fraction = Annotated[float, Ge(0), Le(1)]
FractionBelow1 = Annotated[float, Ge(0), Lt(1)]
NonNegative = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Recipe(AugmentSettings):
    """Every setting of a training run. Units stand in each field's text; ``None`` means "chosen as described"."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    # data
    dataset: str = "cifar10"
    """Data set: cifar10, cifar100, digits, emnist_byclass, …, folder:DIR, csv:FILE, synthetic."""
    data_dir: str | None = None
    """Folder that holds the data sets; default $CIFARFAST_DATA, else ./data."""
    image_size: Annotated[int, Ge(4)] | None = None
    """Side in pixels that folder:, csv: and digits images are resized to; default: as stored (digits: 32)."""
    val_split: FractionBelow1 = 0.0
    """Fraction of the training set held out, stratified by class, for validation."""
    folds: Annotated[int, Ge(0)] = 0
    """Divide the training set into this many parts, stratified by class, and hold one out for validation; 0 = no."""
    fold: Annotated[int, Ge(0)] = 0
    """The part that is held out, counted from 0."""
    split_seed: Annotated[int, Ge(0), Lt(2**63)] | None = None
    """Seeds which images val_split or folds hold out, so that runs of several seeds can share them; default: seed."""
    limit_train: Positive | None = None
    """Train on this many images only, a subset drawn by the seed."""
    drop_train_duplicates: bool = False
    """Leave out the training images whose pixels are exactly those of a test image."""
    background: Background = "white"
    """What shows through where images of folder: and csv: are transparent; none: the colours under the transparency."""
    normalize: Literal["standard", "unit"] = "standard"
    """Pixels become (x/255 − mean)/std per channel of the training set, or x/255 for "unit"."""

    # augmentation of the training images: AugmentSettings, and the usual pair switched on
    crop_padding: int = 4
    """Pixels added on every side before a random crop of the image's size; 0 = no crop."""
    flip: Literal["none", "random", "alternating"] = "random"
    """Horizontal flip: none, random (half of the images), alternating (every second epoch mirrors the one before)."""

    # model
    arch: str = "wrn16_8"
    """Model; `cifarfast models` lists them, torchvision:NAME and timm:NAME take any other."""
    init: Literal["default", "kaiming_normal", "xavier"] = "default"
    """Initialisation of convolution and linear weights."""
    dropout: FractionBelow1 | None = None
    """Overrides every dropout rate of the architecture; default: the architecture's own."""

    # optimisation
    epochs: Positive = 200
    """Passes over the training set."""
    batch_size: Positive = 128
    """Images a step."""
    optimizer: Literal["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop", "adagrad", "muon"] = "sgd"
    """Optimizer, as in torch.optim; muon takes the weights of inner layers, and SGD the rest."""
    lr: Annotated[float, Gt(0)] | None = None
    """Peak learning rate a step; default: sgd 0.1, muon 0.02, adagrad 0.01, nadam, adamax 0.002, others 0.001."""
    momentum: FractionBelow1 | None = None
    """SGD's, Muon's and RMSprop's momentum; default: sgd 0.9, muon 0.95, rmsprop 0."""
    nesterov: bool = True
    """Nesterov's form of SGD's momentum."""
    betas: tuple[FractionBelow1, FractionBelow1] = (0.9, 0.999)
    """Adam-family decay rates of the first and second moment."""
    eps: Annotated[float, Gt(0)] | None = None
    """Added to the denominator; default: torch's own for the optimizer (1e-8, adagrad 1e-10)."""
    rms_alpha: FractionBelow1 = 0.99
    """RMSprop's smoothing constant of the squared gradient."""
    muon_steps: Annotated[int, Ge(1), Le(20)] = 5
    """Newton–Schulz iterations of Muon."""
    muon_rest_lr: Annotated[float, Gt(0)] = 0.1
    """Peak learning rate of what SGD updates beside Muon: first convolution, last layer, norms, biases."""
    weight_decay: NonNegative | None = None
    """Weight decay; default: sgd 5e-4, adamw and muon 0.01, the others 0."""
    decoupled_weight_decay: bool = False
    """Take lr·weight_decay·w from the weights instead of adding weight_decay·w to the gradient, as adamw and muon
    always do; also for sgd, adam and nadam."""
    decay_norm_and_bias: bool = True
    """Apply weight decay to batch-norm weights and to biases too."""
    l2: dict[str, float] = field(default_factory=dict)
    """L2 penalty on single layers, layer name → c: adds c·Σw² of the layer's weight to the loss."""
    label_smoothing: FractionBelow1 = 0.0
    """Share of the label's mass spread evenly over all classes."""
    lr_scale: dict[str, float] = field(default_factory=dict)
    """Factors on the learning rate, first part of the parameters' names → factor; 0 freezes them."""
    sam: Literal["none", "sam", "asam"] = "none"
    """Take the gradient at weights perturbed towards a higher loss: SAM, or its scale-invariant form ASAM."""
    sam_rho: NonNegative | None = None
    """Radius of the perturbation; default: sam 0.05, asam 0.5."""
    sam_eta: NonNegative = 0.0
    """Added to |w| in ASAM's perturbation."""
    sam_every: Positive = 1
    """Perturb at each step whose number is a multiple of this; the others are plain steps."""
    clip_norm: NonNegative = 0.0
    """Largest norm of the gradient over all parameters; a longer one is scaled down; 0 = off."""
    ema_decay: FractionBelow1 = 0.0
    """Decay a step of an exponential moving average of the weights, which then is what is evaluated; 0 = off."""
    ema_warmup: bool = False
    """Begin with a shorter average: step t's decay is at most (1 + t) / (10 + t)."""
    lookahead_every: Annotated[int, Ge(0)] = 0
    """Steps of the fast weights for one of Lookahead's slow weights; 0 = off."""
    lookahead_alpha: Fraction = 0.5
    """Lookahead's step of the slow weights."""
    on_nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    """A loss or gradient norm that is not finite: stop, leave the step out, or go back to the last checkpoint and leave
    that batch out."""

    # learning-rate schedule
    schedule: Literal["cosine", "constant", "step", "one_cycle", "plateau"] = "cosine"
    """Learning rate over the run; every schedule but plateau is a function of the step alone."""
    warmup_epochs: NonNegative = 0.0
    """Linear warm-up from 0 over this many epochs, before the schedule proper."""
    lr_final_ratio: Fraction = 0.0
    """Last learning rate of cosine and one_cycle as a fraction of the peak; plateau's floor likewise."""
    step_milestones: tuple[Fraction, ...] = (0.3, 0.6, 0.8)
    """Fractions of the run at which `step` multiplies the rate by step_gamma."""
    step_gamma: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Factor of `step`."""
    one_cycle_start_ratio: Annotated[float, Gt(0), Le(1)] = 0.04
    """First learning rate of one_cycle as a fraction of the peak."""
    one_cycle_peak: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Fraction of the run at which one_cycle reaches the peak."""
    plateau_factor: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Factor of `plateau`."""
    plateau_patience: Annotated[int, Ge(0)] = 3
    """Epochs without a better loss (validation, else training) before `plateau` acts."""
    early_stopping_patience: Annotated[int, Ge(0)] = 0
    """Stop after this many epochs without a better validation loss; 0 = never. Needs val_split."""
    restore_best_weights: bool = True
    """With a validation part, keep and evaluate the weights of the epoch with the lowest validation loss, instead of
    the last epoch's."""

    # how it runs
    seed: Annotated[int, Ge(0), Lt(2**63)] = 42
    """Seeds initialisation, order, augmentation and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto takes a GPU when there is one."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Compute precision under autocast; auto is bf16 on a GPU and fp32 on a CPU."""
    channels_last: bool = True
    """Store activations and convolution weights NHWC."""
    deterministic: bool = True
    """Ask torch and cuDNN for deterministic algorithms."""
    backend: Literal["auto", "fused", "torch"] = "auto"
    """Ops of the model: this package's fused ones or torch's; auto is fused on a GPU and torch on a CPU."""
    graph: bool = True
    """On a GPU, capture the training step as one CUDA graph."""
    compile: bool = False
    """Let torch.compile make the model's kernels; takes backend torch and no graph."""
    sync_batch_norm: bool = False
    """With several processes: batch norm's statistics over all of them."""
    eval_every: Positive = 1
    """Evaluate each time this many epochs are done, and after the last."""
    eval_batch_size: Positive = 500
    """Images a batch in evaluation."""
    checkpoint_seconds: NonNegative = 60.0
    """Write a checkpoint when this many seconds have passed since the last one; 0 = after every step."""
    tensorboard: bool = False
    """Also write TensorBoard events into the run folder."""

    # identity
    name: str = "custom"
    """Name of the recipe the settings started from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for layer, coefficient in self.l2.items():
            if not coefficient >= 0:
                raise UserError(f"l2 of layer {layer!r} is {coefficient}: it must be at least 0")
        for prefix, factor in self.lr_scale.items():
            if not 0 <= factor < math.inf:
                raise UserError(f"lr_scale of {prefix!r} is {factor}: it must be finite and at least 0")
        if self.decoupled_weight_decay and self.optimizer not in ("sgd", "adam", "adamw", "nadam", "muon"):
            raise UserError(f"decoupled_weight_decay is for sgd, adam, adamw, nadam and muon, not {self.optimizer}")
        if self.compile and self.backend == "fused":
            raise UserError("compile = true makes the model's kernels with torch.compile: backend must be torch")
        if self.sync_batch_norm and self.backend == "fused":
            raise UserError("sync_batch_norm = true needs torch's batch norm: backend must be torch")
        if list(self.step_milestones) != sorted(set(self.step_milestones)):
            raise UserError(f"step_milestones {list(self.step_milestones)} must increase")

    @property
    def held_out_seed(self) -> int:
        """The seed of what val_split or folds hold out: split_seed, or seed where that is not given."""
        return self.seed if self.split_seed is None else self.split_seed

    def resolved(self, device: Literal["cpu", "cuda"]) -> "Recipe":
        """Return the recipe with every choice that depends on others or on the machine made explicit."""
        lrs = {"sgd": 0.1, "muon": 0.02, "adagrad": 0.01, "nadam": 0.002, "adamax": 0.002}
        eps = {"adagrad": 1e-10}
        decay = {"sgd": 5e-4, "adamw": 0.01, "muon": 0.01}
        momentum = {"sgd": 0.9, "muon": 0.95}.get(self.optimizer, 0.0)
        fused = device == "cuda" and not (self.compile or self.sync_batch_norm)
        rho = {"asam": 0.5}.get(self.sam, 0.05)
        precision = self.precision if self.precision != "auto" else ("bf16" if device == "cuda" else "fp32")
        return dataclasses.replace(
            self,
            device=device,
            precision=precision,
            backend=self.backend if self.backend != "auto" else ("fused" if fused else "torch"),
            sam_rho=self.sam_rho if self.sam_rho is not None else rho,
            lr=self.lr if self.lr is not None else lrs.get(self.optimizer, 1e-3),
            momentum=self.momentum if self.momentum is not None else momentum,
            eps=self.eps if self.eps is not None else eps.get(self.optimizer, 1e-8),
            weight_decay=self.weight_decay if self.weight_decay is not None else decay.get(self.optimizer, 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class About:
    """The ``[about]`` table of a recipe file: what the recipe is, not how it runs."""

    description: str = ""
    """One line."""
    source: str = ""
    """Where the settings and the reported accuracy come from."""
    reported_accuracy_percent: float | None = None
    """Test accuracy the source reports, in percent."""
    reported: str = ""
    """What the source reports where it gives no exact accuracy, for example "about 25"."""


# Settings that do not change what is computed: a resumed run may have others.
NOT_IDENTITY = ("data_dir", "checkpoint_seconds", "tensorboard", "graph")

# Bytes of a path that are not UTF-8: Python has them as surrogates, which neither TOML nor JSON can hold
BYTES_AS_CHARACTERS = {0xDC00 + byte: 0xEF00 + byte for byte in range(128, 256)}
CHARACTERS_AS_BYTES = {there: here for here, there in BYTES_AS_CHARACTERS.items()}
_MAX_BYTES = 2**20  # of a recipe file
_LONGEST_SHOWN = 200  # characters of a value in a message

_RECIPE = TypeAdapter(Recipe)
_ABOUT = TypeAdapter(About)


def validate(settings: dict[str, Any], where: str) -> Recipe:
    """Build a Recipe from plain values, checking names, types and ranges.

    Raises:
        UserError: one line that starts with ``where`` and names the setting, its value and what is allowed.
    """
    known = {f.name for f in dataclasses.fields(Recipe)}
    for key in settings:
        if key not in known:
            raise UserError(f"{where}: unknown setting {_shown(key)}{nearest(key, known)}")
    recipe = check_values(_RECIPE, settings, where)
    paths = {name: getattr(recipe, name) for name in ("dataset", "data_dir") if getattr(recipe, name) is not None}
    restored = {name: path.translate(CHARACTERS_AS_BYTES) for name, path in paths.items()}
    return recipe if restored == paths else dataclasses.replace(recipe, **restored)


def with_settings(recipe: Recipe, settings: dict[str, Any], where: str) -> Recipe:
    """The recipe with other values for some settings, checked as those of a recipe file are.

    Raises:
        UserError: an unknown setting (names the nearest), or a value that is not allowed; starts with ``where``.
    """
    optional = {f.name for f in dataclasses.fields(Recipe) if f.default is None}  # TOML, which is checked, has no null
    values = {**dataclasses.asdict(recipe), **settings}
    return validate({key: value for key, value in values.items() if value is not None or key not in optional}, where)


def check_values(adapter: TypeAdapter[Any], values: Any, where: str) -> Any:
    """Plain values as what the adapter makes of them; ``UserError`` that begins with ``where`` and names the value."""
    try:
        # strict JSON rules: lists become tuples and whole numbers floats, but "20" does not become 20
        text = json.dumps(values, default=str, ensure_ascii=False).translate(BYTES_AS_CHARACTERS)
        return adapter.validate_json(text, strict=True)
    except (UnicodeEncodeError, RecursionError):
        raise UserError(f"{where}: a setting is no text, or nested too deeply") from None
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), UserError):
            raise UserError(f"{where}: {cause}") from None
        name = ".".join(str(part) for part in first["loc"]) or "value"
        message = first["msg"].removeprefix("Input ").removeprefix("should ")
        raise UserError(f"{where}: {_shown(name, str)} = {_shown(first['input'])}: must {message}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{where}: {error}") from None


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    folder = resources.files(__package__)
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe_file(name: str) -> str:
    """The text of a recipe file: UTF-8, with or without a byte-order mark.

    Raises:
        UserError: it cannot be read, is no regular file or larger than 1 MiB, or is in another encoding.
    """
    try:
        text = read_bounded(user_path(name), _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read recipe file {name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 of Latin letters is valid UTF-8 with zero bytes
        raise UserError(f"recipe file {name} is not text in UTF-8: save it in that encoding")
    return text


def load_recipe(name_or_file: str) -> tuple[Recipe, About]:
    """Read a recipe by its name, or from a TOML file (anything that ends in .toml or has a slash)."""
    if name_or_file.endswith(".toml") or "/" in name_or_file:
        return parse_recipe(read_recipe_file(name_or_file), where=name_or_file, name=Path(name_or_file).stem)
    names = recipe_names()
    if (resources.files("cifarfast") / "ensembling" / f"{name_or_file}.toml").is_file():
        raise UserError(
            f"{name_or_file} is an ensemble's recipe: `cifarfast reproduce {name_or_file}` trains its members and "
            f"combines them, `cifarfast ensemble RUN RUN … --recipe {name_or_file}` takes runs that are there"
        )
    if name_or_file not in names:
        hint = nearest(name_or_file, names)
        raise UserError(f"no recipe {name_or_file!r}{hint}; `cifarfast recipes` lists them, a file must end in .toml")
    text = (resources.files(__package__) / f"{name_or_file}.toml").read_text(encoding="utf-8")
    return parse_recipe(text, where=f"recipe {name_or_file}", name=name_or_file)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The tables of a TOML text; ``UserError`` that begins with ``where`` if it is none."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, a thousand brackets
        raise UserError(f"{where} is not TOML: {_shown(error, str)}") from None


def _shown(value: object, form: Callable[[object], str] = repr) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = form(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def parse_recipe(text: str, *, where: str, name: str) -> tuple[Recipe, About]:
    """Parse a recipe's TOML text; ``name`` becomes the recipe's name unless the text has one."""
    settings = parse_toml(text, where)
    about = settings.pop("about", {})
    if not isinstance(about, dict):
        raise UserError(f"{where}: [about] must be a table, not {_shown(about)}")
    known = {f.name for f in dataclasses.fields(About)}
    for key in about:
        if key not in known:
            raise UserError(f"{where}: unknown key {_shown(key)} in [about]{nearest(key, known)}")
    return validate({"name": name, **settings}, where), check_values(_ABOUT, about, f"{where} [about]")


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML text; settings that are None are left out, as TOML has no null."""
    values = {key: value for key, value in dataclasses.asdict(recipe).items() if value is not None}
    return tomli_w.dumps(values).translate(BYTES_AS_CHARACTERS)


def differences(ours: Recipe, theirs: Recipe) -> list[str]:
    """Lines ``setting: ours ≠ theirs`` for every setting that changes what is computed."""
    lines = []
    for f in dataclasses.fields(Recipe):
        a, b = getattr(ours, f.name), getattr(theirs, f.name)
        if a != b and f.name not in NOT_IDENTITY:
            lines.append(f"{f.name}: {a!r} ≠ {b!r}")
    return lines
