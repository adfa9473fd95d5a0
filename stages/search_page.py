"""The report of a sweep: what was tried, what it came to, which option mattered."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.draws import Plan
from pipeline.engine.ledger import FAILED, FINISHED, STOPPED, Trial
from pipeline.engine.pictures import Axis, effects, parallel
from pipeline.engine.report import Report, Section
from stages.sought import Sought

SHOWN = 50  # rows of the leaderboard
STOPPED_LOSS = (
    "The loss of {} that a trial had when it was stopped is no {}, and not to be compared with the winner's final "
    "number: it is of another moment, on other rows, and was compared with other trials at the same moment alone."
)


def page(
    recipe: str, plan: Plan, sought: Sought, trials: Sequence[Trial], best: Trial, options: str, left: int = 0
) -> str:
    """The page as HTML. `options` is the winner's configuration, `left` the number of trials that are not done."""
    by = {status: [trial for trial in trials if trial.status == status] for status in (FINISHED, STOPPED, FAILED)}
    metric, smaller = sought.metric, plan.mode == "min"
    done = sorted(by[FINISHED], key=lambda trial: (trial.value or 0.0) * (1 if smaller else -1))
    lead = [
        f"The best of {len(trials)} trials is number {best.number}: its {metric} is {best.value:.5g}, where "
        f"{'smaller' if smaller else 'larger'} is better.",
        f"{len(done)} trials finished, {len(by[STOPPED])} were stopped early, {len(by[FAILED])} failed.",
    ]
    if left and plan.hours is not None:
        lead.append(
            f"The time that was given, {plan.hours:g} hours, was over before {left} of {plan.count} trials were "
            "begun or ended: the same command goes on with them."
        )
    if len(done) > 1 and done[1].value == best.value:
        same = sum(trial.value == best.value for trial in done)
        lead.append(f"{same} trials came to exactly this; of these it is the one that was drawn first.")
    if metric == "selection":
        lead.append(
            "It was measured on held-out full images, which are few: small differences are noise, and the winner's own "
            "number is too good. The gates of each half of them were measured on the other half. The test images were "
            "not looked at; they are when you run the winner's options."
        )
    if best.ends:
        low, high = best.ends
        others = sum(low <= (trial.value or 0.0) <= high for trial in done) - 1
        lead.append(
            f"If the held-out images were drawn anew it would lie within [{low:.5g}, {high:.5g}] 95 times in 100; "
            f"{others} other trials came to a number in there."
        )
    report = Report(f"Search: {recipe}", lead)
    paths = list(plan.spaces)
    rows: list[list[str | float | int]] = [
        [place + 1, trial.number, trial.value or 0.0, _ends(trial), *_cells(trial, paths), round(trial.seconds, 1)]
        for place, trial in enumerate(done[:SHOWN])
    ]
    header = ["place", "trial", metric, "95% interval", *paths, "seconds"]
    report.parts.append(Section("Leaderboard", header=header, rows=rows))
    if len(done) > 1:
        axes = [
            Axis(path, [trial.options[path] for trial in done], space.logarithmic, space.finite)
            for path, space in plan.spaces.items()
        ]
        scores, winner = [trial.value or 0.0 for trial in done], done.index(best)
        seen = [
            ("every finished trial; the winner is red", parallel(axes, scores, metric, winner)),
            ("the metric against each option; the winner is a star", effects(axes, scores, metric, winner)),
        ]
        report.parts.append(Section("What was tried and what it came to", untried(plan, trials), pictures=seen))
    if by[STOPPED]:
        stopped = [
            [trial.number, *_cells(trial, paths), *(trial.history[-1] if trial.history else ("", ""))]
            for trial in by[STOPPED]
        ]
        header = ["trial", *paths, f"percent of {sought.watched}", "its loss then"]
        report.parts.append(Section("Stopped early", [STOPPED_LOSS.format(sought.watched, metric)], header, stopped))
    if by[FAILED]:
        failed = [[trial.number, *_cells(trial, paths), trial.reason] for trial in by[FAILED]]
        report.parts.append(Section("Failed", header=["trial", *paths, "why"], rows=failed))
    tried = [[path, str(space)] for path, space in plan.spaces.items()]
    how = [f"{plan.searcher} search, scheduler {plan.scheduler}, seed {plan.seed}."]
    report.parts.append(Section("What was searched", how, ["option", "values"], tried))
    text = f"kintsugi run {recipe} --config best.yaml makes the winner's whole report, on the test images."
    report.parts.append(Section("The winner's options", [text], code=options))
    return report.html()


def untried(plan: Plan, trials: Sequence[Trial]) -> list[str]:
    """A sentence for each option of which a listed value was in no trial, or in none that finished."""
    said = []
    for path, space in plan.spaces.items():
        drawn = {repr(trial.options[path]) for trial in trials}
        done = {repr(trial.options[path]) for trial in trials if trial.status == FINISHED}
        values = space.arguments if space.finite else ()
        never = [str(value) for value in values if repr(value) not in drawn]
        unfinished = [str(value) for value in values if repr(value) in drawn - done]
        said += [f"Never tried of {path}: {', '.join(never)}."] if never else []
        said += [f"Tried of {path} by no trial that finished: {', '.join(unfinished)}."] if unfinished else []
    return said


def _ends(trial: Trial) -> str:
    return "–" if trial.ends is None else f"{trial.ends[0]:.4g} to {trial.ends[1]:.4g}"


def _cells(trial: Trial, paths: Sequence[str]) -> list[str | float | int]:
    values = [trial.options[path] for path in paths]
    return [value if isinstance(value, int | float) and not isinstance(value, bool) else str(value) for value in values]
