"""Signatures of bundles in OpenSSF's Model Signing format, with keys on elliptic curves.

A signature is a file of the bundle and covers all others: what is added, changed or missing makes it invalid. The
command line of the package model-signing signs and verifies bundles too.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fovea_api.errors import InvalidInput

if TYPE_CHECKING:
    from model_signing import verifying

SIGNATURE = "model.sig"
"""Name of the file, as model-signing calls it."""


class UntrustedBundle(InvalidInput):
    """The bundle is not signed, was changed since, or was signed by another key."""


def sign_bundle(bundle: Path, private_key: Path, password: str | None = None) -> bytes:
    """The signature of a bundle in a local directory; one that is there is not part of it. Raises InvalidInput.

    Args:
        bundle: Its directory.
        private_key: A PEM file with a key on P-256, P-384 or P-521.
        password: Of the key, where it is encrypted.
    """
    from model_signing import hashing, signing

    with TemporaryDirectory(prefix="fovea-signature-") as folder:
        written = Path(folder) / SIGNATURE
        contents = hashing.Config()  # type: ignore[no-untyped-call]
        contents.set_ignored_paths(paths=[SIGNATURE])
        try:
            signer = signing.Config()  # type: ignore[no-untyped-call]
            signer.use_elliptic_key_signer(private_key=private_key, password=password)
            signer.set_hashing_config(contents).sign(bundle, written)
        except (ValueError, TypeError, OSError) as error:
            remedy = "give a private key on an elliptic curve, in PEM: openssl ecparam -name prime256v1 -genkey -noout"
            raise InvalidInput(f"cannot sign with this key: {error}", str(private_key), remedy) from error
        return written.read_bytes()


def verify_signature(bundle: Path, public_key: Path) -> None:
    """Returns when the bundle is what the owner of the key has signed. Raises UntrustedBundle, InvalidInput."""
    signature = bundle / SIGNATURE
    if not signature.is_file():
        raise unsigned(str(bundle))
    verifier = _verifier(public_key)
    try:
        verifier.verify(bundle, signature)
    except Exception as error:  # the library raises what its parsers and cryptography raise
        raise _untrusted(error, str(bundle)) from error


def verify_signed_file(name: str, content: bytes, signature: bytes, public_key: Path, place: str) -> None:
    """Returns when the owner of the key has signed a bundle with this file, for whoever reads that file alone.

    Args:
        name: Of the file, relative to the bundle.
        content: Of the file.
        signature: Content of the bundle's signature.
        public_key: A PEM file.
        place: What the errors name.

    Raises:
        UntrustedBundle: the signature is not by that key, or not over this file.
        InvalidInput: the key cannot be read.
    """
    from model_signing._signing.sign_sigstore_pb import Signature

    verifier: Any = _verifier(public_key)
    with TemporaryDirectory(prefix="fovea-signature-") as folder:
        part, written = Path(folder) / "part", Path(folder) / SIGNATURE
        file = part / name
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        written.write_bytes(signature)
        try:
            # The steps of `verifier.verify`, which verifies whole bundles alone.
            manifest = verifier._verifier.verify(Signature.read(written))
            verifier._guess_hashing_config(manifest)
            actual = list(verifier._hashing_config.hash(part, files_to_hash=[file]).resource_descriptors())
        except Exception as error:
            raise _untrusted(error, place) from error
    expected = [each for each in manifest.resource_descriptors() if each.identifier == name]
    if not actual or actual != expected:
        raise _untrusted(f"{name} is not what was signed", place)


def unsigned(place: str) -> UntrustedBundle:
    """The error for a bundle without a signature."""
    return UntrustedBundle("is not signed", place, f"sign it: fovea sign BUNDLE --key KEY writes {SIGNATURE}")


def _untrusted(why: Exception | str, place: str) -> UntrustedBundle:
    words = str(why) or type(why).__name__
    remedy = "use the bundle as it was signed, and the key of who signed it"
    return UntrustedBundle(f"the signature does not hold: {words}", place, remedy)


def _verifier(public_key: Path) -> verifying.Config:
    from model_signing import verifying

    try:
        verifier = verifying.Config()  # type: ignore[no-untyped-call]
        verifier.use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, OSError) as error:
        remedy = "give a public key on an elliptic curve, in PEM, as cosign generate-key-pair writes it"
        raise InvalidInput(f"not a public key: {error}", str(public_key), remedy) from error
    return verifier
