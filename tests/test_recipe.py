"""What a picture says of its making, and that a stranger's picture gets nothing which the user did not name."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import vqclip
from vqclip import config as configs
from vqclip.cli import main as cli
from vqclip.job import InputError, Job, Prompt
from vqclip.record import metadata
from vqclip.run import cores, device
from vqclip.run import recipe as recipes

FACTS = {"device": "cuda:1", "precision": "bfloat16"}
WATCHED: list[tuple[str, str]] | None = None  # (event, what it is about), while a test listens
_FILES = (
    "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.symlink", "os.link",
    "os.chmod", "os.truncate", "os.utime", "shutil.rmtree", "glob.glob",
)  # fmt: skip
_REQUESTS = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "urllib.Request", "os.system",
    "subprocess.Popen", "os.exec", "ftplib.connect", "http.client.connect",
)  # fmt: skip


def _listen(event: str, about: tuple[Any, ...]) -> None:
    if WATCHED is not None and event in (*_FILES, *_REQUESTS):
        WATCHED.append((event, os.fsdecode(about[0]) if isinstance(about[0], str | bytes | os.PathLike) else ""))


sys.addaudithook(_listen)

SMALL = {
    "include": ["a red apple"], "size": [64, 64], "steps": 0, "tries": 1, "judge": None, "coarse": 0,
    "precision": "fp32", "denoiser.model": "none", "threads": 1, "device": "cpu",
}  # fmt: skip
TAKEN = ""  # exit code 0, and a run folder under the user's own outputs
# What is forged -> keys of the config (None: as in SMALL) and what the refusal says, or TAKEN.
FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "outputs above": ({"outputs": "../elsewhere"}, TAKEN),
    "outputs absolute": ({"outputs": "/PRIVATE/made"}, TAKEN),
    "outputs at home": ({"outputs": "~/made"}, TAKEN),
    "outputs on another machine": ({"outputs": "//server/share"}, TAKEN),
    "outputs of Windows": ({"outputs": "\\\\server\\share"}, TAKEN),
    "outputs through a link": ({"outputs": "linked"}, TAKEN),
    "outputs as a number": ({"outputs": 7}, "outputs: got 7"),
    "outputs with an escape": ({"outputs": "a\x1b[31m"}, "outputs: got"),
    "a name": ({"name": "taken"}, TAKEN),
    "a name that climbs": ({"name": "../../made"}, "name: got"),
    "a name with a newline": ({"name": "a\nb"}, "name: got"),
    "a name with a NUL": ({"name": "a\0b"}, "name: got"),
    "a generator by path": ({"generator": "/PRIVATE/secret.safetensors"}, "generator="),
    "a generator at home": ({"generator": "~/secret.safetensors"}, "generator='~/secret.safetensors'"),
    "a generator above": ({"generator": "../secret.safetensors"}, "generator='../secret.safetensors'"),
    "a generator beside": ({"generator": "mine.ckpt"}, "generator='mine.ckpt'"),
    "a generator through a link": ({"generator": "linked.safetensors"}, "generator='linked.safetensors'"),
    "a generator by address": ({"generator": "https://example.com/x.ckpt"}, "generator='https://example.com/x.ckpt'"),
    "a generator of the starter folder that is not there": ({"generator": "starter/../../x"}, "no starter model"),
    "a generator that hides as a published one": ({"generator": "ViT-B/32"}, "generator='ViT-B/32'"),
    "a generator spelled almost as a published one": ({"generator": "~/vit-b-32"}, "generator='~/vit-b-32'"),
    "a generator as a mapping": ({"generator": {"path": "x"}}, "generator: got a mapping"),
    "a guide by path": ({"guides": ["/PRIVATE/secret.safetensors"]}, "guides[0]="),
    "the second guide by path": ({"guides": ["starter", {"model": "./x.pt", "weight": 2}]}, "guides[1]='./x.pt'"),
    "a guide on another machine": ({"guides": ["//server/share/x.pt"]}, "guides[0]='//server/share/x.pt'"),
    "a guide of open_clip": ({"guides": ["open_clip:ViT-B-32:/PRIVATE/x.pt"]}, "guides[0]='open_clip:ViT-B-32:"),
    "guides without end": ({"guides": ["starter"] * 64}, "guides=64 (at most 4)"),
    "a judge by path": ({"judge": "/PRIVATE/secret.safetensors"}, "judge="),
    "a judge by address": ({"judge": "http://127.0.0.1:9/judge.pt"}, "judge='http://127.0.0.1:9/judge.pt'"),
    "a denoiser by path": ({"denoiser.model": "../x.safetensors"}, "denoiser.model='../x.safetensors'"),
    "a generator called none": ({"generator": "none"}, "generator='none'"),
    "a start picture": ({"start.kind": "image", "start.image": "/PRIVATE/private.png"}, "start.image="),
    "a linked start picture": ({"start.kind": "image", "start.image": "linked.png"}, "start.image='linked.png'"),
    "an idle start picture": ({"start.kind": "noise", "start.image": "/PRIVATE/private.png"}, "start.image="),
    "a start picture from a device": ({"start.kind": "image", "start.image": "/dev/zero"}, "start.image='/dev/zero'"),
    "a start picture called starter": ({"start.kind": "image", "start.image": "starter"}, "start.image='starter'"),
    "pictures to resemble": ({"images": [{"image": "/PRIVATE/private.png"}]}, "images[0]="),
    "sixty pictures": ({"images": ["../private.png"] * 60}, "images[59]='../private.png'"),
    "a hub repository": ({"backend": "kandinsky", "kandinsky.prior": "evil/prior"}, "kandinsky.prior='evil/prior'"),
    "a hub repository of ours": ({"backend": "kandinsky", "kandinsky.decoder": "starter/x"}, "decoder='starter/x'"),
    "a published name that a folder hides": (
        {"backend": "kandinsky", "kandinsky.prior": "kandinsky-2.2"}, "kandinsky.prior='kandinsky-2.2'"
    ),
    "a hub repository that is not used": ({"kandinsky.prior": "evil/prior"}, TAKEN),
    "a repository behind a chain": (
        {"start.kind": "backend", "start.backend": "kandinsky", "kandinsky.decoder": "evil/x"}, "kandinsky.decoder="
    ),
    "a mask": (
        {"backend": "kandinsky", "start.kind": "image", "start.image": "x.png", "kandinsky.mask": "~/private.png"},
        "kandinsky.mask='~/private.png'",
    ),
    "a checkpoint": (
        {"backend": "stable-diffusion", "stable_diffusion.model": "/dev/zero"}, "stable_diffusion.model='/dev/zero'"
    ),
    "steps": ({"steps": 100_000}, "steps=100000 (at most 2000)"),
    "steps beyond the schema": ({"steps": 10**30}, "steps: got 1"),
    "steps below zero": ({"steps": -1}, "steps: got -1"),
    "steps as truth": ({"steps": True}, "steps: got true"),
    "a size": ({"size": [4096, 4096]}, "size=4096 (at most 1024)"),
    "crops": ({"crops.count": 4096, "crops.chunk": 4096}, "crops.count=4096 (at most 256), crops.chunk=4096"),
    "augmentations": ({"crops.augment": ["thin_plate"] * 64}, "crops.augment=64 (at most 12)"),
    "tries": ({"tries": 64}, "tries=64 (at most 16)"),
    "diffusion steps": ({"backend": "kandinsky", "kandinsky.steps": 1000}, "kandinsky.steps=1000 (at most 250)"),
    "threads": ({"threads": 4096}, TAKEN),
    "threads beyond the schema": ({"threads": 10**6}, "threads: got 1000000"),
    "a device that is not here": ({"device": "cuda:7"}, TAKEN),
    "a device that is none": ({"device": "cuda;rm"}, "device: got"),
    "frames for ever": ({"video.seconds": 600, "video.fps": 120, "video.scale": 4, "video.keep": True}, TAKEN),
    "a log line a step": ({"log_every": 100_000, "score_every": 1}, TAKEN),
    "two hundred pictures": ({"prompts": ["a heart"] * 200, "include": []}, "the recipe of a picture has one"),
    "a comparison": ({"variants": [{"backend": "vqgan", "set": ["generator=/PRIVATE/secret.safetensors"]}]}, TAKEN),
    "a thousand seeds": ({"seeds": 1000}, TAKEN),
    "base files": ({"base": ["/PRIVATE/secret.yaml"]}, "unknown key 'base'"),
    "base files inside base files": ({"base": {"base": {"base": "../x.yaml"}}}, "unknown key 'base'"),
    "a key of a newer version": ({"crops.telescope": 3}, "unknown key 'crops.telescope'"),
    "a key with an escape": ({"a\x1b[2J": 1}, "unknown key"),
    "an interpolation": ({"generator": "${oc.env:HOME}"}, "generator: got"),
    "a prompt that is a bomb": ({"include": "{a: &a [x], b: *a}"}, "anchors (&) and aliases (*) are not allowed"),
    "a prompt with a tag": ({"include": "[!!python/object/apply:os.system [ls]]"}, "tags (!) are not allowed"),
    "a prompt with an escape": ({"include": ["a \x1b]0;title\x07 apple"]}, TAKEN),
    "no prompt": ({"include": []}, "no prompt"),
}  # fmt: skip


def nested(keys: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        (made.setdefault(section, {}) if section else made)[name] = value
    return made


def forge(path: Path, config: dict[str, Any], **changes: Any) -> Path:
    envelope = {
        "schema": 2, "config": config, "seed": 0, "versions": {}, "weights": {}, "files": {}, "machine": {},
    } | changes  # fmt: skip
    info = PngInfo()
    info.add_itxt("vqclip", json.dumps(envelope))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with private things above the current folder, and names there that lead to them."""
    home, work = tmp_path / "home", tmp_path / "home" / "desk"
    (home / "elsewhere").mkdir(parents=True)
    (work / "ViT-B").mkdir(parents=True)
    (work / "kandinsky-2.2").mkdir()
    Image.new("RGB", (8, 8)).save(home / "private.png")
    for private in (home / "secret.safetensors", home / "secret.yaml", work / "ViT-B" / "32", work / "mine.ckpt"):
        private.write_text("private")
    (work / "linked").symlink_to(home / "elsewhere")
    (work / "linked.png").symlink_to(home / "private.png")
    (work / "linked.safetensors").symlink_to(home / "secret.safetensors")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("VQCLIP_HOME", str(tmp_path / "store"))
    monkeypatch.setattr("tempfile.tempdir", str(home / "elsewhere"))
    monkeypatch.chdir(work)
    return home


def snapshot(folder: Path) -> dict[str, str]:
    def what(path: Path) -> str:
        if path.is_symlink():
            return f"-> {os.readlink(path)}"
        return "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()

    return {path.relative_to(folder).as_posix(): what(path) for path in sorted(folder.rglob("*"))}


@pytest.fixture
def events() -> Iterator[list[tuple[str, str]]]:
    global WATCHED  # an audit hook cannot be taken off again
    WATCHED = []
    yield WATCHED
    WATCHED = None


def private(path: str, home: Path) -> bool:
    """Whether a path is none of the user's own command: of the home's private part, or of another machine."""
    whole = os.path.realpath(os.path.join(os.getcwd(), path))  # as seen from the current folder
    return path.startswith(("//", "\\\\", "http", "/dev/zero")) or (
        Path(whole).is_relative_to(home) and not Path(whole).is_relative_to(home / "desk")
    )


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_picture_gets_nothing_that_the_command_does_not_name(
    kind: str, home: Path, events: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    changes, refusal = FORGED[kind]
    text = json.dumps(nested(SMALL | changes)).replace("/PRIVATE", str(home))
    picture = forge(Path("forged.png"), json.loads(text))
    before = snapshot(home.parent)
    events.clear()
    code = cli.main(["rerun", str(picture), 'video={"formats": []}', "--progress", "none"])
    seen = list(events)
    errors = capsys.readouterr().err
    assert [event for event, _ in seen if event in _REQUESTS] == []
    assert [about for event, about in seen if event in _FILES and private(about, home)] == []
    new = {path: what for path, what in snapshot(home.parent).items() if before.get(path) != what}
    if refusal:
        assert code in (2, 3), errors
        assert refusal in errors
        assert errors.count("\n") == 1
        assert errors.rstrip("\n").isprintable()
        assert new == {}
    else:
        assert code == 0, errors
        (folder,) = Path("outputs").iterdir()
        assert new.keys() - {"home/desk/outputs"} == {
            f"home/desk/{path.as_posix()}" for path in [folder, *folder.rglob("*")]
        }  # fmt: skip
        config = configs.load(folder / "config.resolved.yaml").config
        assert config.threads is not None
        assert config.threads <= cores.usable()
        assert (config.device, config.log_every, config.video.scale) in {("cpu", 1, 1), ("auto", 1, 1)}
        assert not {"secret", "private", "evil"} & set(shlex.split((folder / "run.json").read_text().replace('"', "")))


def test_there_are_sixty_of_them() -> None:
    assert len(FORGED) >= 60


BROKEN = {
    "schema of a newer version": ({"schema": 3}, "has schema 3; this version reads 1 and 2"),
    "files as a list": ({"files": []}, "files is not of type dict"),
    "a machine of numbers": ({"machine": {"threads": 4}}, "machine does not map texts to texts"),
    "config as text": ({"config": "outputs: ../elsewhere"}, "config is not of type dict"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_forged_envelope_is_refused_in_one_line(
    kind: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, refusal = BROKEN[kind]
    forge(Path("forged.png"), **({"config": nested(SMALL)} | changes))
    before = snapshot(home)
    assert cli.main(["rerun", "forged.png", "--progress", "none"]) == 2
    errors = capsys.readouterr().err
    assert refusal in errors
    assert errors.count("\n") == 1
    assert snapshot(home) == before


def found(**config: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"versions": {}, "weights": {}, "files": {}, "machine": {}}
    return {"config": nested(SMALL | config), **empty}


class TestTaken:
    def test_an_override_that_names_the_key_is_the_user_s_word(self, tmp_path: Path) -> None:
        asked = found(generator="x.ckpt", steps=5000, images=["y.png"])
        with pytest.raises(InputError, match=r"images\[0\]='y.png', generator='x.ckpt', steps=5000 \(at most 2000\)"):
            recipes.from_metadata(asked, Path("a.png"), [], trust=False)
        with pytest.raises(InputError) as caught:
            recipes.from_metadata(asked, Path("a.png"), ["generator=starter", "steps=9000"], trust=False)
        assert "generator" not in str(caught.value)
        assert "steps" not in str(caught.value)
        settings = ["generator=starter", "steps=9000", f"images={tmp_path / 'mine.png'}"]
        loaded, _ = recipes.from_metadata(asked, Path("a.png"), settings, trust=False)
        assert (loaded.config.generator, loaded.config.steps) == ("starter", 9000)
        assert loaded.config.images[0].image == str(tmp_path / "mine.png")

    def test_the_refusal_says_what_to_paste(self) -> None:
        asked = found(generator="./my x.ckpt", guides=[{"model": "./g.pt", "weight": 2.0}], steps=5000)
        asked |= {"weights": {"generator": "ab" * 32, "guide 0": "cd" * 32}}
        with pytest.raises(InputError) as caught:
            recipes.from_metadata(asked, Path("a.png"), [], trust=False)
        said = str(caught.value)
        assert "generator='./my x.ckpt' (SHA-256 abababababab...), guides[0]='./g.pt' (SHA-256 cdcdcdcdcdcd...)" in said
        assert "add --trust, or " in said
        settings = shlex.split(said.partition("what you agree to: ")[2])
        loaded, _ = recipes.from_metadata(asked, Path("a.png"), settings, trust=False)
        assert loaded.config.generator == str(Path.cwd() / "my x.ckpt")
        assert [(guide.model, guide.weight) for guide in loaded.config.guides] == [(str(Path.cwd() / "g.pt"), 2.0)]
        assert loaded.config.steps == 5000

    def test_trust_takes_all_but_where_the_run_lies(self) -> None:
        asked = found(
            **{"generator": "./x.ckpt", "steps": 5000, "outputs": "/elsewhere", "name": "made", "video.seconds": 3.0,
               "threads": 4096, "kandinsky.prior": "someone/prior", "backend": "vqgan"}
        )  # fmt: skip
        loaded, lines = recipes.from_metadata(asked, Path("a.png"), [], trust=True)
        config = loaded.config
        assert (config.outputs, config.name, config.threads) == ("outputs", None, cores.usable())
        assert (config.generator, config.steps) == (str(Path.cwd() / "x.ckpt"), 5000)
        assert (config.video.seconds, lines) == (3.0, [])

    def test_what_is_not_of_the_picture_is_said_with_its_value(self) -> None:
        loaded, lines = recipes.from_metadata(
            found(**{"video.seconds": 3.0, "video.formats": ["gif"], "score_every": 10}), Path("a.png"), [], trust=False
        )
        assert loaded.config.video == configs.Config().video
        (line,) = lines
        assert line.endswith(": video.seconds=3.0 'video.formats=[\"gif\"]'")

    def test_starter_and_catalogue_models_are_known(self) -> None:
        asked = found(generator="imagenet_f16_1024", guides=["ViT-B/32", "starter/guide-rn"], judge="starter")
        loaded, _ = recipes.from_metadata(asked, Path("a.png"), [], trust=False)
        assert loaded.config.generator == "imagenet_f16_1024"

    def test_an_unknown_key_names_the_version_that_wrote_it(self) -> None:
        asked = found(telescope=1) | {"versions": {"vqclip": "9.0"}}
        with pytest.raises(InputError, match=r"^a\.png: unknown key 'telescope'.*\(made by vqclip 9\.0\)$"):
            recipes.from_metadata(asked, Path("a.png"), [], trust=False)

    def test_a_picture_beside_its_own_recipe_says_whole_paths_and_finds_them(self, tmp_path: Path) -> None:
        config = configs.from_mapping({"include": "apple", "generator": "/far/x.ckpt", "start": {
            "kind": "image", "image": "/far/photo.png"}}, source="test")  # fmt: skip
        (tmp_path / "config.resolved.yaml").write_text(configs.to_yaml(config))
        asked = found() | {"config": recipes.to_metadata(config, FACTS)}
        with pytest.raises(InputError) as caught:
            recipes.from_metadata(asked, tmp_path / "final.png", [], trust=False)
        assert str(caught.value).endswith(": generator=/far/x.ckpt start.image=/far/photo.png")
        loaded, _ = recipes.from_metadata(asked, tmp_path / "final.png", [], trust=True)
        assert (loaded.config.generator, loaded.config.start.image) == ("/far/x.ckpt", "/far/photo.png")
        (tmp_path / "config.resolved.yaml").write_text(configs.to_yaml(config).replace("steps: 60", "steps: 61"))
        loaded, _ = recipes.from_metadata(asked, tmp_path / "final.png", [], trust=True)
        assert loaded.config.generator == str(Path.cwd() / "x.ckpt")


class TestTold:
    def test_no_folder_of_the_maker_is_named(self, tmp_path: Path) -> None:
        config = configs.from_mapping(
            nested({
                "include": "apple", "outputs": str(tmp_path / "out"), "name": "mine",
                "generator": str(tmp_path / "a.ckpt"),
                "guides": ["vit-b-32", f"open_clip:ViT-B-32-256:{tmp_path / 'c.pt'}"], "judge": str(tmp_path / "d.pt"),
                "images": [str(tmp_path / "e.png")], "start.kind": "image", "start.image": str(tmp_path / "f.png"),
                "kandinsky.prior": str(tmp_path), "kandinsky.mask": str(tmp_path / "g.png"),
                "stable_diffusion.model": str(tmp_path / "h.ckpt"), "denoiser.model": str(tmp_path / "i.safetensors"),
            }),
            source="test",
        )  # fmt: skip
        said = recipes.to_metadata(config, FACTS)
        assert str(tmp_path.parent) not in json.dumps(said)
        assert not {"outputs", "name", "variants", "seeds"} & said.keys()
        assert (said["device"], said["precision"]) == ("cuda", "bf16")
        assert said["generator"] == "./a.ckpt"
        assert [each["model"] for each in said["guides"]] == ["ViT-B/32", "open_clip:ViT-B-32-256:./c.pt"]
        assert said["kandinsky"]["prior"] == f"./{tmp_path.name}"
        assert said["start"]["image"] == "./f.png"

    def test_it_is_a_whole_config_without_trust(self) -> None:
        config = configs.from_mapping({"include": "apple", "steps": 7}, source="test")
        carried = found() | {"config": recipes.to_metadata(config, FACTS)}
        again, lines = recipes.from_metadata(carried, Path("a.png"), [], trust=False)
        assert (again.config.steps, again.config.precision, lines) == (7, "bf16", [])
        assert again.config.device == ("cuda" if device.is_here("cuda") else "auto")


def test_films_and_pictures_of_a_run_name_no_folder(tmp_path: Path, weight_files: dict[str, Path]) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), "red").save(photo)
    result = vqclip.generate(
        include="apple", outputs=str(tmp_path / "out"), generator=str(weight_files["generator"]), steps=2, tries=1,
        guides=[str(weight_files["guide"])], judge=None, size=[32, 32], threads=1, images=[str(photo)],
        start={"kind": "image", "image": str(photo)}, video={"formats": ["mp4", "gif", "webp"], "seconds": 0.2},
    )  # fmt: skip
    assert result.folder is not None
    for name in ("final.png", "progress.mp4", "progress.gif", "progress.webp"):
        envelope = metadata.read(result.folder / name)
        assert "/" not in json.dumps(envelope).replace("./", "")
        assert envelope["files"] == dict.fromkeys(
            ("start.image", "images[0]"), hashlib.sha256(photo.read_bytes()).hexdigest()
        )  # fmt: skip
        assert envelope["machine"]["threads"] == "1"
    facts = json.loads((result.folder / "run.json").read_text())
    assert (facts["device"], facts["cpu_capability"]) == ("cpu", envelope["machine"]["cpu_capability"])
    assert facts["files"] == envelope["files"]
    saved = json.loads(result.recipe["vqclip"])
    assert saved == envelope


def test_a_picture_of_the_first_schema_is_read(tmp_path: Path) -> None:
    text = json.dumps({"schema": 1, "config": nested(SMALL), "seed": 0, "versions": {}, "weights": {}})
    info = PngInfo()
    info.add_itxt("vqclip", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    loaded, _ = recipes.from_metadata(metadata.read(tmp_path / "a.png"), tmp_path / "a.png", [], trust=False)
    assert loaded.config.include == (Prompt("a red apple"),)


def test_the_job_beside_the_recipe_has_its_own_fields() -> None:
    texts = metadata.embed(job=Job((Prompt("a"),)), config={}, versions={}, weights={}, machine={"threads": "2"})
    assert json.loads(texts["vqclip"])["machine"] == {"threads": "2"}
