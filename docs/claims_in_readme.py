"""Write the README's short table of claims anew from docs/claims.md: python docs/claims_in_readme.py."""

from pathlib import Path

DOCS = Path(__file__).parent
BEGIN, END = "<!-- claims: from docs/claims.md -->", "<!-- end of claims -->"
SHOWN = (
    "classical initializations keep the size on average over weights only",
    "with BN ln std grows slowly by depth and starts anew in a stage",
    "without BN channels grow exponentially",
    "the paper's network without BN lies in theory's band",
    "without BN gradients of layer 55 spread 100 times wider or more",
    "without BN one class is predicted for almost every image",
    "singular values of 1, 3, 5 matrices follow the theorem",
    "with BN they cancel (layers 18, 54, 90)",
    "BN allows much larger learning rates",
    "without BN the step at which it passes 1000",
    "without BN the step at which it passes 1000, for a network of the size in figure 5",
    "without BN it trains at 0.0001",
    "without BN it trains at 0.0001: on digits",
)


def rows(table: str) -> dict[str, list[str]]:
    """Cells of the claims by name: where, claim, paper, theory, ours, verdict, explanation."""
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.replace("\\|", "\0").split("|")[1:-1]] for line in lines]
    return {row[1].replace("\0", "\\|"): [cell.replace("\0", "\\|") for cell in row] for row in cells}


def with_claims(readme: str, table: str) -> str:
    """Return the README with its table as the whole one has it.

    Raises
    ------
    KeyError
        If a claim that is shown is no longer there.
    ValueError
        If the README has no place for the table.
    """
    found = rows(table)
    (summary,) = (line for line in table.splitlines() if " claims of the paper: " in line)
    lines = [summary, "", "Some of them:", ""]
    lines += ["| where | claim | paper | theory | ours | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(found[name][:6]) + " |" for name in SHOWN]
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return "\n".join([before + BEGIN, *lines, END + after])


if __name__ == "__main__":
    path = DOCS.parent / "README.md"
    new = with_claims(path.read_text(encoding="utf-8"), (DOCS / "claims.md").read_text(encoding="utf-8"))
    path.write_text(new, encoding="utf-8")
