"""The three branches of GLASS: what is synthesised, how far away, and what it does to logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from flowgauge.domain.errors import SettingsError, UserError
from flowgauge.models.adaptable import require_adaptable
from flowgauge.models.detector import TextureOverlay
from flowgauge.models.glass.detector import Glass, Hypothesis, Synthesis, ascended, focal_loss, projected, synthesised
from flowgauge.synthetic.texture_overlay import paste, procedural_textures, textures_of
from flowgauge.training.training_set import paste_all
from tests.support.detectors import features, trained
from tests.support.gauges import line


def points(rows: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


def logits(x_ND: torch.Tensor) -> torch.Tensor:
    """Anomalous is what lies far along the first axis."""
    return 2 * x_ND[:, 0] - 1


def test_ascent_raises_the_loss_of_calling_it_anomalous() -> None:
    before = points()
    after = ascended(before, logits, step=0.1, steps=3)
    assert bool((F.softplus(-logits(after)) > F.softplus(-logits(before))).all())
    torch.testing.assert_close((after - before).norm(dim=1), torch.full((200,), 0.3))


def test_the_projection_keeps_distances_between_r_and_twice_r() -> None:
    origin, moved = points(), points() + 3 * points(seed=1)
    distances = (projected(moved, origin, torch.tensor(1.5)) - origin).norm(dim=1)
    assert float(distances.min()) >= 1.5 - 1e-5
    assert float(distances.max()) <= 3.0 + 1e-5
    inside = ((moved - origin).norm(dim=1) > 1.5) & ((moved - origin).norm(dim=1) < 3)
    torch.testing.assert_close(projected(moved, origin, torch.tensor(1.5))[inside], moved[inside])


def test_on_a_manifold_distances_are_from_each_good_feature() -> None:
    good = points()
    found = synthesised(good, logits, Synthesis(radius=0.4), torch.Generator().manual_seed(1))
    unit = float((good - good.mean(dim=0)).square().sum(dim=1).mean().sqrt())
    distances = (found - good).norm(dim=1)
    assert float(distances.min()) >= 0.4 * unit - 1e-4
    assert float(distances.max()) <= 0.8 * unit + 1e-4


def test_in_a_hypersphere_distances_are_from_the_centre() -> None:
    good = points()
    settings = Synthesis(hypothesis=Hypothesis.HYPERSPHERE)
    found = synthesised(good, logits, settings, torch.Generator().manual_seed(1))
    own = (good - good.mean(dim=0)).norm(dim=1)
    distances = (found - good.mean(dim=0)).norm(dim=1)
    assert float(distances.min()) >= float(own.quantile(0.75)) - 1e-4
    assert float(distances.max()) <= 2 * float(own.quantile(0.75)) + 1e-4


def test_what_is_hard_counts_more_and_half_covered_cells_do_not_count() -> None:
    share = torch.tensor([1.0, 1.0, 0.0, 0.3])
    plain, focused = (focal_loss(torch.tensor([3.0, -3.0, -3.0, 9.0]), share, focus) for focus in (0.0, 2.0))
    assert float(plain) == pytest.approx((F.softplus(torch.tensor([-3.0, 3.0])).mean() + 0.0486).item(), abs=1e-3)
    easy, hard = (focal_loss(torch.tensor([value, -9.0]), torch.tensor([1.0, 0.0]), 2.0) for value in (3.0, -3.0))
    without = float(F.softplus(torch.tensor(3.0)) / F.softplus(torch.tensor(-3.0)))
    assert float(hard / easy) > 10 * without
    assert float(focused) < float(plain)


def test_scores_are_logits_and_do_not_saturate() -> None:
    detector = trained("glass")
    assert isinstance(detector, Glass)
    with torch.inference_mode():
        far = [detector.score(features(6, seed=9, defect=True)), detector.score(features(6, seed=9))]
    assert float(far[0].image.max()) > 1, "no sigmoid is above 1"
    assert float(far[1].image.min()) < 0


def test_adapting_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"glass cannot be adapted.*Fit the line anew"):
        require_adaptable(trained("glass"))


def square(index: int = 0) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.asarray(Image.fromarray(line().good(index).pixels).resize((96, 96)))


def test_a_texture_changes_the_image_under_its_mask_and_nowhere_else() -> None:
    pixels, textures = square(), procedural_textures(96)
    before = pixels.copy()
    for seed in range(12):
        found = paste(pixels, textures, np.random.default_rng(seed))
        assert 0 < found.mask.mean() < 0.5
        assert (found.pixels[~found.mask] == pixels[~found.mask]).all()
        assert (found.pixels[found.mask] != pixels[found.mask]).mean() > 0.5
    assert (pixels == before).all()


def test_gray_images_stay_gray() -> None:
    gray = np.repeat(square()[..., :1], 3, axis=2)
    found = paste(gray, procedural_textures(96), np.random.default_rng(0)).pixels
    assert (found == found[..., :1]).all()


def test_on_the_object_nothing_is_overlaid_beside_it() -> None:
    pixels = np.full((96, 96, 3), 12, np.uint8)
    pixels[30:70, 30:70] = square()[:40, :40] // 2 + 100
    for seed in range(12):
        mask = paste(pixels, procedural_textures(96), np.random.default_rng(seed), on_object=True).mask
        assert mask.any()
        assert not mask[:28].any()
        assert not mask[:, 72:].any()


def test_textures_of_a_folder_are_those_in_it(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(tmp_path / "white.png")
    (texture,) = textures_of(tmp_path, 64)
    assert texture.shape == (64, 64, 3)
    assert (texture == 200).all()
    crops = np.full((3, 64, 64, 3), 10, np.uint8)
    overlaid, masks = paste_all(crops, TextureOverlay(folder=str(tmp_path)), seed=0)
    assert (overlaid[masks] > 20).all()
    with pytest.raises(SettingsError, match="holds no textures"):
        textures_of(tmp_path / "nowhere", 64)
