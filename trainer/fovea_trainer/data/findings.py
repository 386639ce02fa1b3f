"""Findings: what is not right in a source, how bad that is, what it means for training, and what to do about it.

Readers, checks and the build raise them; the report, the Dataset's condition and `fovea dataset check` show them.
`FindingKind` is the one registry: a new kind is one more entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fovea_api.version import FindingSummary, Severity
from pydantic import JsonValue

MESSAGE_LIMIT = 500
"""Characters of a summary's message: a condition is one line."""
SHOWN_SUBJECTS = 5


class FindingKind(StrEnum):
    """What can be wrong.

    Args:
        value: Name of the kind, as statuses and JSON show it.
        severity: Note: kept as it was meant, nothing is lost. Warning: something is left out or doubtful.
            Serious: a model trained on it learns something wrong, or nothing.
        heading: What reports call it.
        done: What the build did about it.
        meaning: What it means for training.
        remedy: What to do; a finding may know better.
        faulty: Whether an image with it counts for `quality.maxFaultyImages`: it is lost, or some of its labels are,
            so that what they show is taught as background.
    """

    severity: Severity
    heading: str
    done: str
    meaning: str
    remedy: str
    faulty: bool

    def __new__(
        cls, value: str, severity: Severity, heading: str, done: str, meaning: str, remedy: str, faulty: bool = False
    ) -> FindingKind:
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.severity, kind.heading, kind.done = severity, heading, done
        kind.meaning, kind.remedy, kind.faulty = meaning, remedy, faulty
        return kind

    BLURRED_FRAME = (
        *("BlurredFrame", Severity.NOTE, "Blurred frame", "left out"),
        "The model never sees it.",
        "Nothing; set dropBlurred: false to keep such frames.",
    )
    CLIPPED_BOX = (
        *("ClippedBox", Severity.NOTE, "Box across the image's border", "clipped"),
        "Nothing is lost: what lies outside of the image cannot be seen.",
        "Nothing; if there are many, compare the size of the images with that of the labelling tool.",
    )
    DUPLICATE_BOX = (
        *("DuplicateBox", Severity.NOTE, "Box given twice", "kept once"),
        "Nothing is lost: an object counts once.",
        "Nothing.",
    )
    EMPTY_SOURCE = (
        *("EmptySource", Severity.NOTE, "Source that gives nothing yet", "taken as empty"),
        "The version is made of the other sources.",
        "Nothing; a later build reads it.",
    )
    EXACT_DUPLICATE = (
        *("ExactDuplicate", Severity.NOTE, "Same image twice", "kept once"),
        "Nothing is lost: the copies would count double, and could lie in two splits.",
        "Nothing.",
    )
    EXCLUDED = (
        *("Excluded", Severity.NOTE, "Excluded on demand", "left out"),
        "The model never sees it.",
        "Nothing.",
    )
    MOST_FRAMES = (
        *("MostFrames", Severity.NOTE, "Videos with more frames than are wanted", "not read to their end"),
        "The model never sees what they show later.",
        "Nothing; raise maxFrames or everySeconds to reach further.",
    )
    OTHER_FILES = (
        *("OtherFiles", Severity.NOTE, "Files without images or labels", "not used"),
        "Nothing is lost, unless they say something about the images.",
        "Nothing; compare the format's layout if they were meant to be used.",
    )
    WAITS_FOR_LABEL = (
        *("WaitsForLabel", Severity.NOTE, "Image that waits for a label", "not in the version"),
        "The model does not see it until somebody labels it.",
        "Label it, and give the labels with the same image file as a source.",
    )

    BROKEN_VIDEO = (
        *("BrokenVideo", Severity.WARNING, "Broken video", "read up to where it breaks"),
        "The model never sees what it shows later.",
        "Copy or record it again.",
        True,
    )
    IGNORED_REGION = (
        *("IgnoredRegion", Severity.WARNING, "Region that cannot be used", "its pixels are ignored"),
        "The pixels count neither in training nor in evaluation.",
        "Repair the segmentation, or draw the region anew.",
    )
    INTERRUPTED_STREAM = (
        *("InterruptedStream", Severity.WARNING, "Live stream that gave no pictures", "earlier frames are used"),
        "The model never sees what it would have shown.",
        "Look at the camera and the network; the next build records again.",
    )
    LISTED_TWICE = (
        *("ListedTwice", Severity.WARNING, "Image listed twice", "left out"),
        "Its labels may be those of another image, so the model never sees it.",
        "List each image once, under an id and a path of its own.",
        True,
    )
    ORPHAN_LABEL = (
        *("OrphanLabel", Severity.WARNING, "Label of no image", "not used"),
        "If the image is there under another name or id, it is taught without this label.",
        "Add the image to the list, or remove the label.",
    )
    UNNAMED_REST = (
        *("UnnamedRest", Severity.WARNING, "No class for the rest of the image", "ignored"),
        "The model learns nothing about pixels outside of the regions, and will give them some class.",
        "Add a class called background to classes.",
    )
    OTHER_SIZE = (
        *("OtherSize", Severity.WARNING, "Labels of an image of another size", "left out"),
        "The boxes lie beside their objects, so the model never sees the image.",
        "Bring back the images that were labelled, or correct the size that the labels claim.",
        True,
    )
    SCALED_VALUES = (
        *("ScaledValues", Severity.NOTE, "Image of more than 8 bits", "scaled by its own range"),
        "Values can be compared within an image, not between images; serving does the same.",
        "If values mean something across images (temperatures), store them as 8 bits by one scale.",
    )
    TURNED_IMAGE = (
        *("TurnedImage", Severity.WARNING, "Image that EXIF turns", "labels taken as of the displayed picture"),
        "If the labelling tool did not turn the picture, the boxes lie beside their objects.",
        "Look at the pictures of the report; if they are wrong, turn the files and remove their EXIF orientation.",
    )
    TURNED_LABELS = (
        *("TurnedLabels", Severity.NOTE, "Labels of the picture as EXIF finds it", "rotated with the picture"),
        "Nothing is lost: the size in the annotation says that the tool did not turn the picture.",
        "Nothing.",
    )
    CLASSES_ALIKE = (
        *("ClassesAlike", Severity.WARNING, "Classes that differ in case only", "kept as different classes"),
        "If they mean the same, the model is taught to tell apart what is one class.",
        "Rename one to the other by classMap.",
    )
    CLASS_ONLY_NAMED = (
        *("ClassOnlyNamed", Severity.WARNING, "Class that is named and no label has", "no class of the version"),
        "The model does not know the class.",
        "Add images of it; or list all names in classes, so that it keeps its place among them.",
    )
    CONFLICTING_LABELS = (
        *("ConflictingLabels", Severity.WARNING, "Same image, other labels", "first labels kept"),
        "One of the two labels is wrong, and the model may be taught the wrong one.",
        "Decide which labels are right and remove the other copy.",
    )
    CORRUPT_IMAGE = (
        *("CorruptImage", Severity.WARNING, "Corrupt image", "left out"),
        "The model never sees it, nor its labels.",
        "Copy the file again from where it came.",
        True,
    )
    DEGENERATE_BOX = (
        *("DegenerateBox", Severity.WARNING, "Degenerate box", "left out"),
        "What the box was meant for is taught as background.",
        "Draw the box anew, or remove it.",
    )
    INVALID_LABEL = (
        *("InvalidLabel", Severity.WARNING, "Invalid label", "left out"),
        "What the label was meant for is taught as background; an image without another label is left out.",
        "Repair the line, or remove it.",
        True,
    )
    MISSING_IMAGE = (
        *("MissingImage", Severity.WARNING, "Missing image", "left out"),
        "Its labels are lost.",
        "Copy the image to where the label looks for it, or remove the label.",
        True,
    )
    MISSING_SPLIT = (
        *("MissingSplit", Severity.WARNING, "Split, or image of one, that is not there", "not used"),
        "The images that are meant are not in this split, and are shared out by ratio.",
        "Correct the path, or remove the line.",
    )
    NAMES_DIFFER = (
        *("NamesDiffer", Severity.WARNING, "Class names that disagree", "names as the finding says"),
        "If the other names are right, all objects are taught under wrong names.",
        "Keep the names that the labels were written with, and remove the others.",
    )
    NO_LABEL_FILE = (
        *("NoLabelFile", Severity.WARNING, "Image without a label file", "kept as showing no object"),
        "It is taught, and measured, as an image that shows no object.",
        "Give images that show nothing an empty label file, and move those that nobody labelled out of the source.",
    )
    OUTSIDE_BOX = (
        *("OutsideBox", Severity.WARNING, "Box outside of its image", "left out"),
        "The object is not learned; the label may belong to another image, or to another size of it.",
        "Compare the image with the one that was labelled.",
    )
    PREDICTED_LABELS = (
        *("PredictedLabels", Severity.WARNING, "Labels that a model predicted", "kept as labels"),
        "The mistakes of the model are taught.",
        "Have the labels reviewed, or give those that people drew.",
    )
    SHARED_LABELS = (
        *("SharedLabels", Severity.WARNING, "Label file of several images", "kept for each"),
        "If only one of the images was labelled, the others are taught wrong boxes.",
        "Rename the images so that each has a name of its own, without counting the suffix.",
    )
    SIZE_MISMATCH = (
        *("SizeMismatch", Severity.WARNING, "Image of another size than annotated", "kept as displayed"),
        "Boxes may lie beside their objects.",
        "Label the images as they are, or bring back those that were labelled.",
    )
    SPLIT_CONFLICT = (
        *("SplitConflict", Severity.WARNING, "Image that the source puts in two splits", "shared out by ratio"),
        "In both it would make the test result look better than it is.",
        "List each image in one split.",
    )
    SPLIT_LEAKAGE = (
        *("SplitLeakage", Severity.WARNING, "Train image that looks like a test image", "left train"),
        "In train it would make the test result look better than it is.",
        "Nothing; groupBy keeps what belongs together in one split.",
    )
    SPLIT_NOT_GIVEN = (
        *("SplitNotGiven", Severity.WARNING, "Images in no split of the source", "shared out by ratios"),
        "Images that the source's author kept out of its test set may be in it now.",
        "Name them in the source's splits, or move them out of it.",
    )
    UNKNOWN_CLASS = (
        *("UnknownClass", Severity.WARNING, "Unknown class", "left out"),
        "The object is taught as background.",
        'Add the class to classes, rename it by classMap, or drop it on purpose by mapping it to "".',
    )
    UNLABELLED = (
        *("Unlabelled", Severity.WARNING, "Image without label", "left out"),
        "The model never sees it.",
        "Label it, or move it out of the source.",
    )
    UNREADABLE_FILE = (
        *("UnreadableFile", Severity.WARNING, "File that cannot be read", "not used, or guessed"),
        "What it says is lost.",
        "Repair the file, or move it out of the source.",
    )
    UNUSED_FILES = (
        *("UnusedFiles", Severity.WARNING, "Files that were not used", "left out"),
        "Images that nothing refers to are not learned from; labels of no image leave theirs without objects.",
        "Move them to where the format looks for them, correct their names, or move them out of the source.",
    )

    CLASS_NOT_IN_TRAIN = (
        *("ClassNotInTrain", Severity.SERIOUS, "Class that train does not show", "kept"),
        "The model cannot learn the class, and every object of it counts as missed.",
        "Add train images of it, or remove the class.",
    )
    CLASS_WITHOUT_IMAGES = (
        *("ClassWithoutImages", Severity.SERIOUS, "Class without images", "kept"),
        "The model has an output for it and can never learn it.",
        "Check how the labels spell it, add images of it, or remove it from classes.",
    )
    EMPTY_SPLIT = (
        *("EmptySplit", Severity.SERIOUS, "Split without images", "left empty"),
        "Without validation the best epoch is not known; without test, nor is how good the model is.",
        "Add images, or change splits: groups and near duplicates stay together, and can be more than a split's share.",
    )
    SINGLE_CLASS = (
        *("SingleClass", Severity.SERIOUS, "One class only", "kept"),
        "There is nothing to tell apart: every model is right, whatever it has learned. It cannot be trained on.",
        "Add images of what it must not be taken for, as a class of its own.",
    )


KINDS = {kind.value: kind for kind in FindingKind}
LOST_IMAGE = (FindingKind.CORRUPT_IMAGE, FindingKind.MISSING_IMAGE, FindingKind.BROKEN_VIDEO)
"""Counted as corrupt: the image, or what a video shows, is left out."""
LOST_LABEL = (
    FindingKind.INVALID_LABEL,
    FindingKind.UNKNOWN_CLASS,
    FindingKind.DEGENERATE_BOX,
    FindingKind.OUTSIDE_BOX,
    FindingKind.UNLABELLED,
    FindingKind.IGNORED_REGION,
    FindingKind.LISTED_TWICE,
    FindingKind.ORPHAN_LABEL,
    FindingKind.OTHER_SIZE,
)
"""Counted as invalid labels: the label is left out."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not right."""

    kind: FindingKind
    place: str
    """`file`, `file:line`, with the entry's number or id where a line has many; relative to the source."""
    message: str
    """The finding in words, with the values."""
    remedy: str = ""
    """What to do about it where that is known better than the kind knows it."""
    subject: str = ""
    """What it is about, where findings of a kind are counted by that: the name of an unknown class."""

    @property
    def severity(self) -> Severity:
        return self.kind.severity

    @property
    def advice(self) -> str:
        return self.remedy or self.kind.remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Tally:
    """All findings of a kind in a build."""

    kind: FindingKind
    severity: Severity
    """The kind's; Serious for a warning that concerns more images than `quality.maxFaultyImages` allows."""
    count: int
    images: int
    """Images that have such a finding."""
    examples: tuple[Finding, ...]
    """The first ones by place."""
    subjects: tuple[tuple[str, int], ...] = ()
    """What they are about, each with how often, the most frequent first."""

    def to_dict(self) -> dict[str, JsonValue]:
        """The JSON form, with the examples."""
        return {
            "kind": str(self.kind),
            "severity": str(self.severity),
            "count": self.count,
            "images": self.images,
            "done": self.kind.done,
            "meaning": self.kind.meaning,
            "remedy": self.kind.remedy,
            "subjects": dict(self.subjects),
            "examples": [{"place": one.place, "message": one.message, "remedy": one.advice} for one in self.examples],
        }

    def summary(self) -> FindingSummary:
        """As results and statuses keep it."""
        example = str(self.examples[0]) if self.examples else self.kind.heading
        shown = ", ".join(f"{subject} ({count})" for subject, count in self.subjects[:SHOWN_SUBJECTS])
        more = ", …" if len(self.subjects) > SHOWN_SUBJECTS else ""
        message = f"{shown}{more}; first {example}" if len(self.subjects) > 1 else example
        message = message if len(message) <= MESSAGE_LIMIT else f"{message[: MESSAGE_LIMIT - 1]}…"
        return FindingSummary(kind=self.kind, severity=self.severity, count=self.count, message=message)


RANK = {Severity.SERIOUS: 0, Severity.WARNING: 1, Severity.NOTE: 2}
"""The worst first."""
