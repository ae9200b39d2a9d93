"""Where the answers of `diffzero classify` go beside the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, storable
from .console import note, print_table, say
from .records import NONE, Wish, marked

if TYPE_CHECKING:
    from .build import ModelChoice
    from .results import Results
    from .sorting import Sorter


@dataclass
class Keep:
    """A file of results, folders of words and a contact sheet, each if it is wished.

    Attributes:
        out: File of results.
        sort_into: Folder of the words' folders.
        sort_how: `copy`, `link` or `move`.
        html: Contact sheet.
        wish: What an answer is.
        none: How many photos had the answer "none of these" until now.
    """

    out: Path | None
    sort_into: Path | None
    sort_how: str
    html: Path | None
    wish: Wish
    results: Results | None = field(default=None, init=False)
    sorter: Sorter | None = field(default=None, init=False)
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    files: dict[str, str] = field(default_factory=dict, init=False)
    title: str = field(default="", init=False)
    none: int = field(default=0, init=False)

    def check(self, paths: Sequence[str], names: Sequence[str]) -> None:
        """Refuse what cannot be, before the model is loaded.

        Raises:
            InputError: an unusable file or folder, or wishes that do not go together.
        """
        from .contact import check_sheet
        from .results import check_place
        from .sorting import Sorter

        if self.out is not None:
            check_place(self.out)
        if self.html is not None:
            check_sheet(self.html)
        self.names = list(names)
        if self.sort_into is not None:
            self.sorter = Sorter(self.sort_into, self.sort_how, [*names, NONE], paths)
        if (self.wish.none or self.wish.multi) and NONE in names:
            raise InputError(
                f'"{NONE}" is what --none and --multi answer; take it off the labels.'
            )
        if self.wish.multi and any(";" in name for name in names):
            raise InputError("--multi joins labels by semicolons; take those out of the labels.")
        if self.wish.multi and self.sorter is not None and self.sort_how == "move":
            raise InputError(
                "--sort-how move puts a photo into one folder, and --multi may name several. Use "
                "copy or link."
            )

    def open(
        self, files: list[str], choice: ModelChoice, names: list[str], template: Any
    ) -> list[str]:
        """Open the file of results; the files that have no answer there.

        Raises:
            InputError: a file of another run.
        """
        from .results import SHOWN, Results, fingerprint

        self.k = min(self.wish.top or SHOWN, len(names))
        self.title = f"{choice.model}: {', '.join(names[:12])}{', …' * (len(names) > 12)}"
        self.files = {storable(path): path for path in files}
        if self.out is None:
            return files
        decides = (choice.model, choice.method, choice.settings, choice.seed, choice.shortlist,
                   choice.priors, choice.resolution, choice.threshold, *choice.told)  # fmt: skip
        self.results = Results(
            self.out, fingerprint(decides, names, template, astuple(self.wish)), self.k,
            self.wish.none or self.wish.multi,
        )  # fmt: skip
        self.rows, done = self.results.rows, self.results.done
        if done:
            note(f"{self.out}: {len(done):,} photos have their answer; going on with the others.")
            self._sort_old()
        return [path for path in files if storable(path) not in done]

    @property
    def where(self) -> str:
        """Where answers are, after an interruption."""
        if self.results is None:
            return "their lines are printed"
        return f"kept in {self.results.journal}; run the same command again to go on"

    def add(self, record: dict[str, Any]) -> None:
        """Keep the answer of one photo."""
        from .results import flat

        self.none += record.get("label") == NONE
        if "error" not in record and self.sorter is not None:
            labels = record.get("labels", [record["label"]]) or [NONE]
            self._sort(record["path"], labels)
        if self.results is not None:
            self.results.add(record)
        elif self.html is not None:
            self.rows.append(flat(record, self.k))

    def close(self, whole: bool = True) -> None:
        """Leave every file whole; the contact sheet and what was counted only at the end."""
        if self.results is not None:
            self.results.close(whole)
        if whole and self.html is not None:
            from .contact import write_sheet

            write_sheet(self.rows, self.files, self.k, self.title, self.html)

    def say_places(self) -> None:
        """How often each word was the answer, and where everything is."""
        if self.out is not None:
            from .results import unknown_in

            names = (marked(row["label"] or "no answer", unknown_in(row)) for row in self.rows)
            counts = Counter(names).most_common()
            print_table(["word", "photos"], [(label, f"{n:,}") for label, n in counts])
        for place in (self.out, self.sort_into, self.html):
            if place is not None:
                say(str(place))

    def _sort_old(self) -> None:
        """Photos whose answers were known already, if they are still where they were."""
        for row in self.rows if self.sorter is not None else []:
            path = self.files.get(row["path"])
            if path is not None and Path(path).is_file():
                several = row.get("labels")
                self._sort(path, several.split("; ") if several else [row["label"]])

    def _sort(self, path: str, labels: Sequence[str]) -> None:
        assert self.sorter is not None
        for label in labels:
            target = self.sorter(Path(path), label)
        if self.sort_how == "move":
            self.files[storable(path)] = str(target)
