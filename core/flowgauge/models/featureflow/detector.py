"""`featureflow`, the default: normalizing flows over the multi-scale features of each patch.

The frozen features of all strides meet on the grid of the second finest one. Several flows give likelihoods of each
patch: one of all strides together, and one of each stride that is not finer than the grid. Features are standardised
and projected on their principal components, each scaled to unit variance, before a flow sees them (RAD, arXiv
2508.17789 eq. 1; patch by patch as in CFLOW-AD, arXiv 2107.12571). An image has one score for each flow, the mean over
its most anomalous patches, each less its surroundings in the map: the likelihood of a whole image moves with light and
focus, which are no defects (decision 22). The image's score is the mean of these, each in units of its own spread.

The detector is an ensemble of cross-fitted members. Each member has its own projections and flows and is fitted to the
images of all folds but one, so every training image has a score by a member that it did not train. These scores set the
locations' statistics, the scales and the threshold. A new image has the mean score of all members (decision 21; CV+,
arXiv 1905.02928).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flowgauge.domain.messages import FrozenModel
from flowgauge.domain.progress import labelled
from flowgauge.models.adaptable import FLOW, Ensemble
from flowgauge.models.detector import (
    CrossFitted,
    Embedding,
    FeatureShape,
    Progress,
    Scores,
    TrainingSet,
    length,
    select,
)
from flowgauge.models.flows.coupling import CouplingFlow
from flowgauge.models.flows.flow import ProductFlow
from flowgauge.models.flows.training import Rows, Training, held_out_images, maximise_likelihood
from flowgauge.models.patch_scores import (
    highest,
    lower_spread,
    nhwc,
    pyramid,
    pyramid_channels,
    repeated,
    smoothed,
    to_grid,
)
from flowgauge.models.whitening import Whitening
from flowgauge.vision.augmentation import PLAIN, View

# Images whose patches pass the flows at once: more take hundreds of MiB for hidden units, fewer gain no memory. Even,
# so that every chunk begins with an image of an even number.
_CHUNK = 32
# Images whose patches the flows score at once: the hidden units of 1,024 patches stay in a core's cache, those of 16
# images are fetched from memory, which takes a third longer on CPUs.
_SCORED = 1
# Images that the statistics of all places count as beside those of one. Fewer, and a handful of training images makes
# places that they happen to agree on alarm; more, and places lose their own scale.
_PRIOR_IMAGES = 8
# Deviation of the Gaussian, in patches, under which neighbouring places share their statistics: parts do not lie to the
# pixel. At 3 and more the border of a part and its ground become one.
_NEIGHBOURS = 1.0
# The least spread of image scores, in deviations of a map's patches. Without it a handful of images that happen to
# score alike make scores of a million; with more, lines whose good images are all alike lose the scale of their own.
_LEAST_SPREAD = 0.05
# views that train: the image, mirrored left to right, mirrored top to bottom, and both
_MIRRORED = (PLAIN, View(flip=True), View(turns=2, flip=True), View(turns=2))
# Views of all images together, beyond which images get no further mirrored views. With 8 to 64 images all four are
# worth 0.02 AUROC on the mean of five products; with 200, where they are twice too many for the flows' size, they lose
# 0.03 on screws.
_ENOUGH_VIEWS = 256
# steps of the optimiser: with fewer, flows of a handful of small images stay close to the identity
_FEWEST_STEPS = 40
# how names begin of a member's projections among what is meta-learned
_WHITEN = "whiten."
# Images that the anchor's whitening counts as when it is realigned to recent ones. With none, a line that has not
# drifted loses up to 0.02 AUROC to the chance of 60 images; with 30, light that doubled costs 0.01.
_ANCHOR_IMAGES = 8


class FeatureFlowConfig(FrozenModel):
    dimensions: int = Field(96, ge=2, description="principal components that a flow sees, at most")
    members: int = Field(3, ge=2, description="cross-fitted members, each fitted to all folds of the images but one")
    blocks: int = Field(4, ge=1, description="affine coupling blocks of each flow")
    hidden: int = Field(256, ge=1, description="hidden units of each block's network")
    clamp: float = Field(1.9, gt=0, description="bound on the logarithm of a coupling's scales (RAD s.3.1)")
    top: float = Field(0.03, gt=0, le=1, description="share of an image's patches whose mean is its score")
    surroundings: float = Field(
        0.125,
        ge=0,
        description="deviation of the Gaussian mean of a patch's surroundings that an image's score takes off the"
        " patch, as a share of the map's side; 0 takes nothing off",
    )
    still: float = Field(
        0.5,
        ge=0,
        le=1,
        description="parts lie still where location explains more than this share of the features' variance",
    )
    training: Training = Field(
        Training(steps=1000, batch=512, learning_rate=1e-2, noise=0.05, check_every=100, patience=10),
        description="of all flows of a member together",
    )
    epochs: int = Field(
        20, ge=1, description="passes over the training patches, at most: few images are soon known by heart"
    )
    init_epochs: float = Field(
        2.5, gt=0, allow_inf_nan=False, description="passes from meta-learned parameters in place of `epochs`"
    )
    patches: int = Field(2**18, ge=1, description="training patches that are kept in memory, at most")


class FeatureFlow(Ensemble, CrossFitted):
    name = "featureflow"
    symmetric_views = _MIRRORED[1:]
    config: FeatureFlowConfig
    flow: ProductFlow

    def __init__(self, config: FeatureFlowConfig, shape: FeatureShape) -> None:
        side, stride = shape.sides[shape.grid], shape.strides[shape.grid]
        super().__init__(config, shape, (side, side))
        self.member_count = config.members
        widths = pyramid_channels(shape)
        coarse = [width for width, each in zip(widths, shape.strides, strict=True) if each >= stride]
        inputs = [sum(widths), *coarse] if len(widths) > 1 else widths
        dimensions = [min(config.dimensions, width) for width in inputs] * config.members
        self.terms = terms = len(inputs)
        self.whiten = nn.ModuleList(map(Whitening, inputs * config.members, dimensions))
        self.flow = ProductFlow(
            [
                CouplingFlow(each, blocks=config.blocks, hidden=config.hidden, clamp=config.clamp, seed=number)
                for number, each in enumerate(dimensions)
            ]
        )
        self.location = nn.Buffer(torch.zeros(terms, *self.grid))
        self.scale = nn.Buffer(torch.ones(terms, *self.grid))
        self.centre = nn.Buffer(torch.zeros(terms))
        self.spread = nn.Buffer(torch.ones(terms))
        # whether the projections were measured on other lines, whose axes the flows start in
        self._initialised = False

    def embed(self, features: Sequence[Tensor]) -> Embedding:
        """`stride<s>` (B, C, H, W) in half precision, each patch the mean over its 3 x 3 neighbourhood. A stride finer
        than the grid comes as its mean and its maximum.
        """
        levels = pyramid(features, self.shape)
        # A defect is rarely one patch alone (PatchCore, arXiv 2106.08265 s.3.1). Zeros lie beyond the border, as there:
        # so the flows can tell patches of the border, which the backbone's own padding makes different, from those
        # within. Means over the neighbours that exist lose 0.06 AUROC on screws and 0.02 on tiles.
        return {
            name: nhwc(F.avg_pool2d(levels[name].float(), 3, stride=1, padding=1).half()) for name in self.shape.keys
        }

    def training_views(self, images: int) -> tuple[View, ...]:
        """As many mirrored views as make up for few images: one, two or four of each."""
        wanted = max(1, _ENOUGH_VIEWS // max(1, images))
        return _MIRRORED[: 4 if wanted >= 4 else min(wanted, 2)]

    def member_flow(self, member: int) -> ProductFlow:
        return self.flow.part(member * self.terms, (member + 1) * self.terms)

    def _whiten_of(self, member: int) -> list[Whitening]:
        first = member * self.terms
        return [whiten for whiten in self.whiten[first : first + self.terms] if isinstance(whiten, Whitening)]

    def measure_lines(self, lines: Sequence[Embedding]) -> None:
        """Take the axes in which flows are meta-learned: of what varies within `lines`, each about its own mean."""
        for number, whiten in enumerate(self._whiten_of(0)):
            rows = (torch.cat([self._inputs(part)[number].flatten(0, 1) for part in _chunks(line)]) for line in lines)
            whiten.measure(x_NC - x_NC.mean(dim=0) for x_NC in rows)
        self._initialised = True

    def initialization(self, learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `load_init` takes: the axes, and one member's flow with the parameters `learned`, named `flow.*`."""
        whole = {
            f"{_WHITEN}{number}.{name}": tensor
            for number, whiten in enumerate(self._whiten_of(0))
            for name, tensor in whiten.state_dict().items()
        }
        return whole | {FLOW + name: tensor for name, tensor in self.member_flow(0).state_dict().items()} | {**learned}

    def load_init(self, parameters: Mapping[str, Tensor]) -> None:
        """Every member starts at the same projections and the same flow."""
        flow = {name.removeprefix(FLOW): value for name, value in parameters.items() if name.startswith(FLOW)}
        try:
            for member in range(self.config.members):
                self.member_flow(member).load_state_dict(flow)
                for number, whiten in enumerate(self._whiten_of(member)):
                    start = f"{_WHITEN}{number}."
                    whiten.load_state_dict({name: parameters[start + name] for name in whiten.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise ValueError("these are parameters of flows of another shape") from error
        self._initialised = True

    def align_member(self, member: int, embedding: Embedding, rows_N: Tensor) -> None:
        """Whiten by these images alone: in the meta-learned axes where it has them, by their principal components
        otherwise.
        """
        for number, whiten in enumerate(self._whiten_of(member)):
            parts = (select(embedding, chunk) for chunk in torch.split(rows_N, _CHUNK))
            patches = (self._inputs(part)[number].flatten(0, 1) for part in parts)
            if self._initialised:
                whiten.realign(patches, 1.0)
            else:
                whiten.measure(patches)

    def learn(self, training_set: TrainingSet, *, seed: int, progress: Progress) -> None:
        fold_N = training_set.folds(self.config.members)[training_set.image]
        for member in range(self.config.members):
            of_member = labelled(progress, f"member {member + 1} of {self.config.members}")
            self._fit_member(member, training_set, (fold_N != member).nonzero().flatten(), seed + member, of_member)
        progress("calibrating the flows", 0, 1)
        plain = training_set.plain()
        self.calibrate(self._held_out_nll(plain), plain.good)
        progress("calibrating the flows", 1, 1)

    def _fit_member(
        self, member: int, training_set: TrainingSet, rows_N: Tensor, seed: int, progress: Progress
    ) -> None:
        """Whiten the features of those rows' good images, and fit the member's flows to a sample of their patches."""
        image_N = training_set.image[rows_N]
        self.align_member(member, training_set.good, rows_N)
        # as many patches of each image, so that no image's look outweighs another's
        patches, generator = self.grid[0] * self.grid[1], torch.Generator().manual_seed(seed)
        count = min(patches, max(1, self.config.patches // len(image_N)))
        chosen_NT = torch.stack([torch.randperm(patches, generator=generator)[:count] for _ in range(len(image_N))])
        sample_NTD = torch.empty(*chosen_NT.shape, self.member_flow(member).dimensions)
        for start, chunk in zip(range(0, len(rows_N), _CHUNK), torch.split(rows_N, _CHUNK), strict=True):
            tokens_BTD = self.member_tokens(member, select(training_set.good, chunk))
            chosen_BT = chosen_NT[start : start + len(chunk)]
            sample_NTD[start : start + len(chunk)] = tokens_BTD.take_along_dim(chosen_BT[:, :, None], dim=1)
        held_out = held_out_images(image_N.repeat_interleave(count), 0.1, seed)
        rows = Rows(sample_NTD.flatten(0, 1), held_out)
        training = self.config.training
        epochs = self.config.init_epochs if self._initialised else self.config.epochs
        steps = min(training.steps, max(_FEWEST_STEPS, round(epochs * len(rows.x) / training.batch)))
        training = training.model_copy(
            update={"steps": steps, "check_every": min(training.check_every, max(1, steps // 10))}
        )
        maximise_likelihood(self.member_flow(member), rows, training, seed=seed, progress=progress)

    def realign_member(self, member: int, embedding: Embedding, images: int) -> None:
        """Whiten by recent images of the line, in the axes that the flows were fitted in. Defects among them move it
        little: they cover few patches.
        """
        own = images / (images + _ANCHOR_IMAGES)
        for number, whiten in enumerate(self._whiten_of(member)):
            whiten.realign((self._inputs(part)[number].flatten(0, 1) for part in _chunks(embedding)), own)

    def _held_out_nll(self, training_set: TrainingSet) -> Tensor:
        """(N, h * w, K): the negative log-likelihood of each good patch by the member whose fold the image is of."""
        fold_N = training_set.folds(self.config.members)[training_set.image]
        found, order = [], []
        for member in torch.unique(fold_N).tolist():
            rows = (fold_N == member).nonzero().flatten()
            found.append(self._token_scores(range(member, member + 1), select(training_set.good, rows)))
            order.append(rows)
        return torch.cat(found)[torch.argsort(torch.cat(order))]

    def held_out_scores(self, training_set: TrainingSet) -> Scores:
        """Of the plain view of each good image by the member that it did not train."""
        nll_NTK = self._held_out_nll(training_set.plain())
        return Scores(self._image_score(self._tops(nll_NTK)), self.maps(nll_NTK))

    def calibrate(self, token_scores_NTK: Tensor, embedding: Embedding) -> None:
        """Take the maps' location and scale, of each place where parts lie still, and the scale of each flow's image
        scores.
        """
        maps_NKHW = token_scores_NTK.transpose(1, 2).reshape(len(token_scores_NTK), -1, *self.grid)
        self.location.copy_(maps_NKHW.mean(dim=(0, 2, 3))[:, None, None].expand_as(self.location))
        self.scale.copy_(maps_NKHW.std(dim=(0, 2, 3)).clamp_min(1e-6)[:, None, None].expand_as(self.scale))
        if self._lies_still(embedding):
            # each place's moments shrink towards those of all by N / (N + N0), the weight of a normal prior worth
            # N0 images: location = w mean + (1 - w) location0, scale^2 = w variance + (1 - w) scale0^2
            own = len(maps_NKHW) / (len(maps_NKHW) + _PRIOR_IMAGES)
            mean_KHW = smoothed(maps_NKHW.mean(dim=0), _NEIGHBOURS)
            location_KHW = own * mean_KHW + (1 - own) * self.location
            variance_KHW = smoothed((maps_NKHW - location_KHW).square().mean(dim=0), _NEIGHBOURS)
            self.scale.copy_((own * variance_KHW + (1 - own) * self.scale.square()).sqrt())
            self.location.copy_(location_KHW)
        tops_NK = self._tops(token_scores_NTK)
        self.centre.copy_(tops_NK.median(dim=0)[0])
        self.spread.copy_(torch.stack([lower_spread(top_N) for top_N in tops_NK.T]).clamp_min(_LEAST_SPREAD))

    def _lies_still(self, good: Embedding) -> bool:
        """Whether location explains more than the share `still` of the standardised features' variance."""
        images = length(good)
        if images < 4:
            return False
        # sums of even and odd images, (2, C, h, w), of squares (C,): in single precision all features take a gigabyte
        sums = {name: torch.zeros(2, *tensor.shape[1:], dtype=torch.double) for name, tensor in good.items()}
        second_moments = {name: torch.zeros(tensor.shape[1], dtype=torch.double) for name, tensor in good.items()}
        for part in _chunks(good):
            for name, tensor in part.items():
                x_BCHW = tensor.double()
                second_moments[name] += x_BCHW.square().sum(dim=(0, 2, 3))
                sums[name] += torch.stack([x_BCHW[half::2].sum(dim=0) for half in range(2)])
        explained = []
        for name, sum_2CHW in sums.items():
            mean_C = sum_2CHW.sum(dim=0).mean(dim=(1, 2)) / images
            total_C = (second_moments[name] / (images * sum_2CHW[0, 0].numel()) - mean_C.square()).clamp_min(1e-12)
            # var(E[x | patch]) = cov(mean_1, mean_2) of the means of two halves of the images, whose noise is
            # independent and adds nothing
            means = (sum_2CHW[0] / -(-images // 2), sum_2CHW[1] / (images // 2))
            first, second = (mean - mean.mean(dim=(1, 2), keepdim=True) for mean in means)
            explained.append((first * second).mean(dim=(1, 2)) / total_C)
        # 0.70 and 0.85 for parts in a fixture, at most 0.40 on three other products. A lower limit centres the maps of
        # parts that move, which costs them 0.02 to 0.06 AUROC; a higher one gives up 0.01 on parts that do not.
        return bool(torch.cat(explained).mean() > self.config.still)

    def tokens(self, embedding: Embedding) -> Tensor:
        """(B, h * w, D), row by row of the grid: the whitened features of all flows of each member in turn."""
        return self._on_grid(_whitened(self.whiten, self._inputs(embedding) * self.config.members))

    def member_tokens(self, member: int, embedding: Embedding) -> Tensor:
        whiten = self._whiten_of(member)
        # in parts: before they are whitened, the features of 400 images take a gigabyte
        images, patches = length(embedding), self.grid[0] * self.grid[1]
        tokens_BTD = torch.empty(images, patches, self.member_flow(member).dimensions)
        for start, part in zip(range(0, images, _CHUNK), _chunks(embedding), strict=True):
            tokens_BTD[start : start + _CHUNK] = self._on_grid(_whitened(whiten, self._inputs(part)))
        return tokens_BTD

    def _on_grid(self, rows: Iterable[Tensor]) -> Tensor:
        """(B, h * w, D): the rows (B, h_k * w_k, D_k) of all flows side by side, a coarser grid's cells repeated."""
        return torch.cat([repeated(x_BTD, self.grid[0]) for x_BTD in rows], dim=2)

    def _inputs(self, embedding: Embedding) -> list[Tensor]:
        """(B, h_k * w_k, C_k) of each flow: all strides together on the detector's grid, then each stride that is not
        finer on its own.
        """
        levels = [embedding[name].float() for name in self.shape.keys]
        together = [_rows(to_grid(level, self.grid[0])) for level in levels]
        if len(levels) == 1:
            return together
        stride = self.shape.strides[self.shape.grid]
        coarse = [_rows(level) for level, each in zip(levels, self.shape.strides, strict=True) if each >= stride]
        return [torch.cat(together, dim=2), *coarse]

    def patch_nll(self, embedding: Embedding) -> Tensor:
        """(B, h * w, M K): the negative log-likelihood of each patch by the K flows of each of M members, in nats per
        dimension.
        """
        return self._token_scores(range(self.config.members), embedding)

    def _token_scores(self, members: range, embedding: Embedding) -> Tensor:
        """(B, h * w, K): the same under the flows of some members. Each flow sees the patches of its own grid once."""
        first, end = members.start * self.terms, members.stop * self.terms
        flow, found = self.flow.part(first, end), []
        with torch.no_grad():
            many = _SCORED if self.location.is_cpu else _CHUNK
            for start in range(0, length(embedding), many):
                part = {name: tensor[start : start + many] for name, tensor in embedding.items()}
                inputs = self._inputs(part) * len(members)
                found.append(self._on_grid(flow.scores_of_each(_whitened(self.whiten[first:end], inputs))))
        return torch.cat(found)

    def _mean_of_members(self, nll_BTK: Tensor) -> Tensor:
        return torch.stack(torch.split(nll_BTK, self.terms, dim=2)).mean(dim=0)

    def _standard_maps(self, nll_BTK: Tensor) -> Tensor:
        """(B, K, h, w): 0 where a patch is as likely as usual, 1 a deviation of good patches above it."""
        maps_BKHW = nll_BTK.transpose(1, 2).reshape(len(nll_BTK), -1, *self.grid)
        return (maps_BKHW - self.location) / self.scale

    def maps(self, token_scores_BTK: Tensor) -> Tensor:
        return self._standard_maps(token_scores_BTK).mean(dim=1)

    def _tops(self, nll_BTK: Tensor) -> Tensor:
        """(B, K): the mean of each map's most anomalous patches, each less its surroundings."""
        maps_BKHW = self._standard_maps(nll_BTK)
        maps_NHW = maps_BKHW.flatten(0, 1)
        if self.config.surroundings:
            # light and focus raise a whole neighbourhood's NLL, a defect its own patches above the neighbourhood
            maps_NHW = maps_NHW - smoothed(maps_NHW, self.config.surroundings * self.grid[0])
        return highest(maps_NHW.flatten(1), self.config.top).view(maps_BKHW.shape[:2])

    def _image_score(self, tops_BK: Tensor) -> Tensor:
        """(B,): mean over flows of (top - median) / (median - Q1), in spreads of good images (decision 24)."""
        return ((tops_BK - self.centre) / self.spread).mean(dim=1)

    def image_scores(self, token_scores_BT: Tensor, embedding: Embedding) -> Tensor:
        """(B,) from token scores (B, h * w, M K): 0 for the median good image, 1 a spread above; higher is more
        anomalous.
        """
        # Members' scores are averaged, not their maps: the highest patches of a mean map are lower than those of any
        # member's, and a threshold from held-out scores would promise too few alarms.
        members = torch.split(token_scores_BT, self.terms, dim=2)
        return torch.stack([self._image_score(self._tops(nll_BTK)) for nll_BTK in members]).mean(dim=0)

    def score_embedding(self, embedding: Embedding) -> Scores:
        nll_BTK = self.patch_nll(embedding)
        return Scores(self.image_scores(nll_BTK, embedding), self.maps(self._mean_of_members(nll_BTK)))


def _whitened(projections: Iterable[nn.Module], inputs: Sequence[Tensor]) -> list[Tensor]:
    return [whiten(x_BTC) for whiten, x_BTC in zip(projections, inputs, strict=True)]


def _rows(level_BCHW: Tensor) -> Tensor:
    """(B, H * W, C), row by row."""
    return level_BCHW.flatten(2).transpose(1, 2)


def _chunks(embedding: Embedding) -> Iterator[Embedding]:
    return (select(embedding, rows) for rows in torch.split(torch.arange(length(embedding)), _CHUNK))
