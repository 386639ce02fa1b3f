"""Signatures of bundles in OpenSSF's Model Signing format, with keys on elliptic curves.

A signature is a file of the bundle and covers all others: what is added, changed or missing makes it invalid. The
command line of the package model-signing signs and verifies bundles too.
"""

from __future__ import annotations

from pathlib import Path

from fovea_api.errors import InvalidInput

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
    from tempfile import TemporaryDirectory

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
    from model_signing import verifying

    signature = bundle / SIGNATURE
    if not signature.is_file():
        raise UntrustedBundle("is not signed", str(bundle), f"sign it: fovea sign BUNDLE --key KEY writes {SIGNATURE}")
    try:
        verifier = verifying.Config()  # type: ignore[no-untyped-call]
        verifier.use_elliptic_key_verifier(public_key=public_key)
    except (ValueError, TypeError, OSError) as error:
        remedy = "give a public key on an elliptic curve, in PEM, as cosign generate-key-pair writes it"
        raise InvalidInput(f"not a public key: {error}", str(public_key), remedy) from error
    try:
        verifier.verify(bundle, signature)
    except Exception as error:  # the library raises what its parsers and cryptography raise
        words = str(error) or type(error).__name__
        remedy = "use the bundle as it was signed, and the key of who signed it"
        raise UntrustedBundle(f"the signature does not hold: {words}", str(bundle), remedy) from error
