"""The certificates of the cases, in one directory: authorities, servers, clients, and what is wrong with some of them."""

import base64
import hashlib

from harness import openssl

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
RSA = ("-newkey", "rsa:2048", "-nodes")
SERVER = "DNS:localhost,DNS:host.test,DNS:*.wild.test,IP:127.0.0.1"
CLIENT = "URI:spiffe://parity.test/client,DNS:client.test,email:client@parity.test"


def make_certificates(directory):
    """Two authorities, and from each a server's and a client's certificate with its key in one file; from the first some more."""
    for authority in ("", "other-"):
        certificate, key = directory / f"{authority}ca.pem", directory / f"{authority}ca.key"
        openssl("req", "-x509", *EC, "-days", 30, "-subj", f"/CN=Parity {authority}authority", "-keyout", key, "-out", certificate)
        issue(directory, f"{authority}server", "/CN=server.test", SERVER, authority)
        issue(directory, f"{authority}client", "/C=DE/O=Parity/CN=client.test", CLIENT, authority)
    issue(directory, "rsa-server", "/CN=server.test", SERVER, key=RSA)
    issue(directory, "wild-server", "/CN=wild", "DNS:*.wild.test")
    make_database(directory)
    issue(directory, "expired-server", "/CN=server.test", SERVER, expired=True)
    issue(directory, "expired-client", "/CN=client.test", CLIENT, expired=True)
    issue(directory, "revoked-client", "/CN=revoked.test", "DNS:revoked.test")
    issue(directory, "ip-client", "/CN=address", "IP:10.1.2.3,otherName:1.3.6.1.4.1.311.20.2.3;UTF8:name@parity.test")
    signing = "keyUsage=critical,digitalSignature\n"
    for authority in ("", "other-"):
        issue(directory, f"{authority}workload", "/CN=workload", CLIENT, authority, extensions=signing)
    issue(directory, "expired-workload", "/CN=workload", CLIENT, expired=True, extensions=signing)
    issue(directory, "stranger-workload", "/CN=stranger", "URI:spiffe://stranger.test/client,DNS:stranger.test", extensions=signing)
    issue(directory, "nameless-workload", "/CN=nameless", "DNS:parity.test", extensions=signing)
    issue(directory, "ca-workload", "/CN=workload", "URI:spiffe://parity.test/ca", extensions="basicConstraints=critical,CA:TRUE\n" + signing)
    issue(directory, "wild-client", "/CN=wild", "DNS:*.clients.test")
    issue(directory, "cn-server", "/CN=common.test", "")
    issue(directory, "no-signing-server", "/CN=server.test", SERVER, key=RSA, extensions="keyUsage=critical,keyEncipherment\n")
    issue(directory, "intermediate", "/CN=Parity intermediate", "", extensions="basicConstraints=critical,CA:TRUE\n")
    issue(directory, "deep-client", "/CN=deep.test", "DNS:deep.test", "intermediate")
    leaf = (directory / "deep-client.pem").read_text()
    (directory / "deep-client.pem").write_text(leaf + (directory / "intermediate.crt").read_text())
    (directory / "both-ca.pem").write_text("".join((directory / f"{name}ca.pem").read_text() for name in ("", "other-")))
    revoke(directory, "revoked-client")
    answer = ["-rsigner", directory / "ca.pem", "-rkey", directory / "ca.key", "-CA", directory / "ca.pem", "-issuer", directory / "ca.pem"]
    openssl("ocsp", "-index", directory / "index.txt", *answer, "-cert", directory / "server.crt", "-ndays", 20, "-respout", directory / "server.ocsp")


def issue(directory, name, subject, alternative_names, authority="", key=EC, expired=False, extensions=""):
    file = directory / f"{name}.ext"
    names = f"subjectAltName={alternative_names}\n" if alternative_names else ""
    file.write_text(names + (extensions if "basicConstraints" in extensions else "basicConstraints=CA:FALSE\n" + extensions))
    private, request, certificate = (directory / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
    openssl("req", *key, "-subj", subject, "-keyout", private, "-out", request)
    ca = ("intermediate.crt", "intermediate.key") if authority == "intermediate" else (f"{authority}ca.pem", f"{authority}ca.key")
    signer = ["-CA", directory / ca[0], "-CAkey", directory / ca[1], "-CAcreateserial"]
    if expired:
        dates = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
        openssl(*database(directory), "-batch", "-notext", "-in", request, *dates, "-extfile", file, "-out", certificate)
    else:
        openssl("x509", "-req", "-in", request, *signer, "-days", 30, "-extfile", file, "-out", certificate)
    (directory / f"{name}.pem").write_text(certificate.read_text() + private.read_text())


def make_database(directory):
    """What `openssl ca` needs, for what `openssl x509` cannot do."""
    (directory / "index.txt").write_text("")
    (directory / "crlnumber").write_text("01\n")
    settings = {"database": directory / "index.txt", "new_certs_dir": directory, "crlnumber": directory / "crlnumber",
                "default_md": "sha256", "default_crl_days": 30, "rand_serial": "yes", "unique_subject": "no", "policy": "policy"}
    lines = [f"{name}={value}" for name, value in settings.items()]
    (directory / "ca.cnf").write_text("\n".join(["[ca]", "default_ca=default", "[default]", *lines, "[policy]", "commonName=supplied",
                                                "[crl]", "authorityKeyIdentifier=keyid"]) + "\n")


def database(directory):
    return ["ca", "-config", directory / "ca.cnf", "-keyfile", directory / "ca.key", "-cert", directory / "ca.pem"]


def revoke(directory, name):
    """A revocation list of the first authority in `crl.pem`."""
    openssl(*database(directory), "-revoke", directory / f"{name}.crt")
    openssl(*database(directory), "-gencrl", "-crlexts", "crl", "-out", directory / "crl.pem")


def pins(directory):
    """`@HASH:client@` and `@SPKI:client@`: what pins a certificate, and its key; `@X5C:ca@`: a certificate in JSON Web Keys."""
    names = {}
    for name in ("ca", "other-ca"):
        names[f"@X5C:{name}@"] = base64.b64encode(openssl("x509", "-in", directory / f"{name}.pem", "-outform", "DER")).decode()
    for name in ("client", "server", "other-client"):
        der = openssl("x509", "-in", directory / f"{name}.crt", "-outform", "DER")
        key = openssl("x509", "-in", directory / f"{name}.crt", "-noout", "-pubkey")
        lines = key.decode().splitlines()
        spki = base64.b64decode("".join(line for line in lines if not line.startswith("-")))
        names[f"@HASH:{name}@"] = hashlib.sha256(der).hexdigest()
        names[f"@SPKI:{name}@"] = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    return names
