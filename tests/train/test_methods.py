"""Every method trains on every modality, with point networks and with one that reads windows; and goes on exactly."""

from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pcseg.batch import IGNORE
from pcseg.config import (
    ConsistencyConfig,
    EntropyMinimizationConfig,
    ErdaConfig,
    IPixMatchConfig,
    MethodConfig,
    PointTransformerConfig,
    PseudoLabelConfig,
    SoftSelfLabelConfig,
    TrainConfig,
    ViewsConfig,
    ViTConfig,
)
from pcseg.datasets.scene_part import training_parts
from pcseg.datasets.views import CropDataset
from pcseg.errors import InputError
from pcseg.run_setup import set_up
from pcseg.train import train
from tests.train.test_train import assert_goes_on_exactly
from tests.train.toy import toy_config
from tests.train.toy_images import image_config, volume_config

SOLVER = {"warmup": 0.3, "solver_steps": 10}
METHODS: dict[str, MethodConfig] = {
    "entropy_minimization": EntropyMinimizationConfig(),
    "pseudo_label": PseudoLabelConfig(threshold=0.6),
    "erda_prototypes": ErdaConfig(),
    "erda_queries": ErdaConfig(pseudo="both", alignment="js", max_rows=100),
    "soft_split": SoftSelfLabelConfig(**SOLVER),
    "soft_direct": SoftSelfLabelConfig(optimization="direct", relaxation="q", normalization="rows", warmup=0.3),
    "dense_crf": SoftSelfLabelConfig(optimization="direct", neighborhood="dense", relaxation="bl", warmup=0.3),
    "hard_argmax": SoftSelfLabelConfig(optimization="hard_argmax", warmup=0.3),
    "hard_graph_cut": SoftSelfLabelConfig(optimization="hard_graph_cut", warmup=0.3),
    "fixmatch": ConsistencyConfig(threshold=0.5, views=ViewsConfig(mix_probability=1.0)),
    "mean_teacher": ConsistencyConfig(host="mean_teacher", views=ViewsConfig(mix="none")),
    "ipixmatch_kl": IPixMatchConfig(threshold=0.5),
    "ipixmatch_unimatch": IPixMatchConfig(host="unimatch", relation="correlation", threshold=0.5),
    "ipixmatch_average": IPixMatchConfig(teacher="average", relation="affinity", threshold=0.5),
}
WINDOWS = ViTConfig(hidden=32, layers=1, heads=2, patch_size=2, image_size=24)


def config_of(modality: str, folders: dict, network: str, **change) -> TrainConfig:
    make = {"cloud": toy_config, "image": image_config, "volume": volume_config}[modality]
    config = make(folders[modality])
    if network == "point_transformer":
        voxel = config.model.voxel_size  # pyright: ignore[reportAttributeAccessIssue]
        change["model"] = PointTransformerConfig(
            dim=config.model.dim,
            voxel_size=voxel,
            neighbors=(8, 8),
            widths=(16, 32),
            encoder_blocks=(1, 1),
            decoder_blocks=(1, 1),
        )
    if network == "windows":
        change["model"] = WINDOWS
    return TrainConfig.model_validate(config.model_copy(update={"average": 0.9, "steps": 4, **change}).model_dump())


@pytest.fixture
def folders(scenes, pictures, volumes) -> dict:
    return {"cloud": scenes, "image": pictures, "volume": volumes}


GRID = [
    *((modality, network) for modality in ("cloud", "image", "volume") for network in ("kpconv", "point_transformer")),
    ("image", "windows"),
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("modality", "network"), GRID)
def test_every_method_trains_everywhere(folders, tmp_path, name, modality, network):
    method = METHODS[name]
    if network == "windows" and isinstance(method, SoftSelfLabelConfig):
        method = method.model_copy(update={"contrast": {"color": 9.0} if name != "dense_crf" else {"color": 13.0}})
    config = config_of(modality, folders, network, method=method)
    trainer, _ = set_up(config, tmp_path, init=None, fresh=True, device="cpu")
    before = {key: value.clone() for key, value in trainer.method.state_dict().items()}
    terms: dict[str, float] = {}
    original = trainer._optimize

    def noted(chunks, progress):
        nonlocal terms
        terms = original(chunks, progress)
        return terms

    trainer._optimize = noted
    trainer.validate = None
    trainer.run()
    assert trainer.step == 4
    assert len(terms) >= 2, "the method adds a term of its own"
    assert all(torch.isfinite(torch.tensor(value)) for value in terms.values()), terms
    after = trainer.method.state_dict()
    unchanged = [key for key, value in trainer.method.named_parameters() if torch.equal(before[key], after[key])]
    assert len(unchanged) <= len(before) // 4, unchanged


@pytest.mark.parametrize("name", ["erda_queries", "ipixmatch_average", "soft_split"])
def test_an_interrupted_run_goes_on_exactly(folders, tmp_path, monkeypatch, name):
    config = config_of("cloud", folders, "kpconv", method=METHODS[name], save_every=1)
    assert_goes_on_exactly(config, tmp_path, monkeypatch)


def test_erda_without_weight_is_plain_supervision(folders, tmp_path):
    for name, change in (("plain", {}), ("erda", {"method": ErdaConfig(weight=0.0)})):
        train(config_of("cloud", folders, "kpconv", **change), tmp_path / name)
    from tests.train.test_train import assert_same, last

    assert_same(last(tmp_path / "plain").weights, last(tmp_path / "erda").weights)


def test_views_carry_no_label(folders):
    """What is learnt on the views stays bit for bit the same when every label is another one."""
    from pcseg.run_setup import fitted_contract, training_items

    config = config_of("cloud", folders, "kpconv", method=METHODS["ipixmatch_unimatch"])
    parts = training_parts(config.data)
    items = training_items(config, parts, fitted_contract(config, parts, None), few=False)
    assert isinstance(items.unlabelled, CropDataset)
    first = [items[index] for index in range(6)]
    for item in first:
        assert all(item[name].labels is None for name in item if name != "labelled")
    garbled = [replace(scene, labels=(scene.labels + 1) % 2) for scene in items.unlabelled.scenes]
    other = CropDataset(garbled, items.unlabelled.contract, items.unlabelled.crop, seed=items.unlabelled.seed)
    items.unlabelled = other
    for index, item in enumerate(first):
        again = items[index]
        for name in ("weak_view", "strong_view", "strong_view_2"):
            assert torch.equal(item[name].coords, again[name].coords)
            assert torch.equal(item[name].feats, again[name].feats)


def test_rows_of_strong_views_name_what_they_show(folders):
    from pcseg.datasets.streams import collate
    from pcseg.run_setup import fitted_contract, training_items

    still = {"weak": {}, "strong": {}}
    for modality, network in (("cloud", "kpconv"), ("image", "windows")):
        views = ViewsConfig(mix_probability=0.5, **still)
        config = config_of(modality, folders, network, method=ConsistencyConfig(views=views))
        parts = training_parts(config.data)
        items = training_items(
            config, parts, fitted_contract(config, parts, None), few=config.data.weak_labels is not None
        )
        batch = collate([items[index] for index in range(8)])
        strong, weak = batch["strong_view"], batch["weak_view"]
        assert strong.rows is not None and len(strong) == 8 and len(weak) > 8, "some of them are mixed"
        # Nothing is changed in either view: a row shows exactly what its row of the weak view does.
        assert torch.equal(strong.feats, weak.feats[strong.rows])
        assert torch.equal(strong.coords, weak.coords[strong.rows])


def test_no_label_and_one_class(folders, tmp_path):
    """A batch without labelled rows, and one with a single class, give finite terms."""
    for name, method in METHODS.items():
        config = config_of("cloud", folders, "kpconv", method=method)
        trainer, _ = set_up(config, tmp_path, init=None, fresh=True, device="cpu")
        ((streams, levels),) = trainer._chunks(0)
        labels = streams["labelled"].labels
        for changed in (torch.full_like(labels, IGNORE), torch.zeros_like(labels)):
            given = dict(streams) | {"labelled": replace(streams["labelled"], labels=changed)}
            terms = trainer.method(given, levels, 0.9)
            assert all(bool(torch.isfinite(value)) for value in terms.values()), (name, terms)
            torch.stack(list(terms.values())).sum().backward()


def test_settings_that_do_not_fit(folders, tmp_path):
    with pytest.raises(ValueError, match="set average"):
        config_of("cloud", folders, "kpconv", average=0.0, method=ConsistencyConfig(teacher="average"))
    with pytest.raises(ValueError, match="dense neighborhood is a filter"):
        SoftSelfLabelConfig(neighborhood="dense", relaxation="cd")
    config = config_of("cloud", folders, "kpconv", method=SoftSelfLabelConfig(contrast={"colour": 3.0}))
    with pytest.raises(InputError, match="reads no feature 'colour'"):
        set_up(config, tmp_path, init=None, fresh=True, device="cpu")


def test_the_energy_of_soft_labels_is_observed(folders, tmp_path):
    config = config_of("cloud", folders, "kpconv", method=METHODS["soft_split"])
    run = tmp_path / "run"
    train(config, run)
    told = EventAccumulator(str(run / "tensorboard")).Reload()
    before, after = (told.Scalars(f"method/energy_{name}") for name in ("before", "after"))
    assert len(before) == len(after) >= 1, "after the warm-up"
    assert all(late.value <= early.value for early, late in zip(before, after))


def test_penalties_of_a_network_do_not_depend_on_the_number_of_labels(folders, tmp_path):
    """Normalised by all rows, a term on labelled rows is small; what holds kernels in shape is not."""
    model = {"deformable_levels": (1,)}
    terms = {}
    for normalization in ("each", "rows"):
        method = SoftSelfLabelConfig(**SOLVER | {"warmup": 0.0}, normalization=normalization)
        config = config_of("cloud", folders, "kpconv", method=method)
        config = config.model_copy(update={"model": config.model.model_copy(update=model)})
        folder = tmp_path / normalization
        folder.mkdir()
        trainer, _ = set_up(config, folder, init=None, fresh=True, device="cpu")
        ((streams, levels),) = trainer._chunks(0)
        terms[normalization] = trainer.method(streams, levels, 1.0)
        share = (streams["labelled"].labels != IGNORE).float().mean()
    assert float(terms["each"]["deform_fitting"].detach()) > 0
    torch.testing.assert_close(terms["rows"]["deform_fitting"], terms["each"]["deform_fitting"])
    torch.testing.assert_close(terms["rows"]["cross_entropy"], share * terms["each"]["cross_entropy"])


def test_a_label_noise_that_would_turn_labels_around_is_refused(folders, tmp_path):
    method = SoftSelfLabelConfig(optimization="hard_graph_cut", label_noise=0.95)
    with pytest.raises(InputError, match=r"label_noise must be below 0\.\d+, .* got 0.95; leave it out"):
        train(config_of("cloud", folders, "kpconv", method=method), tmp_path / "run")


def test_class_weighted_terms_need_weights(folders, tmp_path):
    with pytest.raises(InputError, match="class_weighted needs weights of classes, and there are none"):
        train(config_of("cloud", folders, "kpconv", method=ErdaConfig(class_weighted=True)), tmp_path / "run")
