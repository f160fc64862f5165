"""Login at the AS: LoginRequest, then KeyDistributionAck.

Between the two the AS keeps nothing but what it saved: the request's bytes, from which whichever worker gets the
ack repeats the handshake and writes the answer.
"""

from __future__ import annotations

from cyphonic.errors import NotAllowedError
from cyphonic.protocol.certificate import sign_certificate
from cyphonic.protocol.distribution import open_distribution, seal_distribution
from cyphonic.protocol.limits import CERTIFICATE_LIFETIME, COMMON_KEY_LIFETIME
from cyphonic.protocol.login import LoginAttempt, read_login_request, write_login_response
from cyphonic.state import keys
from cyphonic.state.registry import enrolment_digest, valid_name
from cyphonic.state.transactions import ClosedLogin, OpenLogin, close_login, open_login, read_login
from cyphonic.wire.certificate import Certificate
from cyphonic.wire.header import MessageType, SignalingHeader
from cyphonic.wire.job import Job, Route, Send
from cyphonic.wire.login import KeyDistribution, KeyDistributionAck, LoginOutcome, LoginResponse
from cyphonic.workers.setting import AuthenticationKeys, Conversation, Reply, Setting


def log_in(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """LoginRequest: open the transaction, and send on the new common key, again while it is pending."""
    own = _keys(setting)
    attempt = read_login_request(job.datagram, own.own)
    body, static_key, transaction_id = attempt.body, attempt.static_key, header.transaction_id
    place = keys.as_login(static_key, transaction_id)
    (values,) = yield [
        open_login(
            static_key=static_key,
            transaction_id=transaction_id,
            stamp=body.stamp,
            name=body.name if valid_name(body.name) else "",
            enrolment_digest=enrolment_digest(body.enrolment_key) if body.enrolment_key else b"",
            request=job.datagram,
            route=job.route,
            common_key=setting.vault.seal(place, setting.chance(32)),
            wall=setting.wall,
        )
    ]
    login = OpenLogin.parse(values)
    if isinstance(login, LoginOutcome):
        return _answer(setting, attempt, job.route, LoginResponse(outcome=login))
    if login.done:
        if login.request != job.datagram:
            attempt = read_login_request(login.request, own.own)
        return _answer(setting, attempt, job.route, _response(setting, place, login))
    distribution = KeyDistribution(
        static_key=static_key,
        fqdn=setting.site.fqdn(login.name),
        common_key=setting.vault.open(place, login.common_key),
        key_number=login.key_number,
        generation=login.generation,
    )
    return Reply(forwards=[_seal(setting, MessageType.KEY_DISTRIBUTION, transaction_id, distribution)])


def finish_login(setting: Setting, job: Job, header: SignalingHeader) -> Conversation:
    """KeyDistributionAck: certify what the NMS allocated, close the transaction, answer the node."""
    own = _keys(setting)
    _, ack = open_distribution(job.datagram, own.own, own.nms_public)
    assert isinstance(ack, KeyDistributionAck)
    ((name, generation, _),) = yield [read_login(ack.static_key, header.transaction_id)]
    if name is None:
        raise NotAllowedError("no_transaction")
    certificate = b""
    if ack.outcome == LoginOutcome.ACCEPTED:
        certificate = sign_certificate(
            Certificate(
                fqdn=setting.site.fqdn(name.decode()),
                node_id=ack.node_id,
                static_key=ack.static_key,
                virtual_ipv6=ack.virtual_ipv6,
                virtual_ipv4=ack.virtual_ipv4,
                networks=[],
                expires=int(setting.wall) + CERTIFICATE_LIFETIME,
                generation=int(generation),
            ),
            own.signing,
        )
    (values,) = yield [
        close_login(
            ack.static_key,
            header.transaction_id,
            ack.key_number,
            LoginOutcome(ack.outcome),
            ack.node_id,
            certificate,
        )
    ]
    login = ClosedLogin.parse(values)
    place = keys.as_login(ack.static_key, header.transaction_id)
    attempt = read_login_request(login.request, own.own)
    return _answer(setting, attempt, login.route, _response(setting, place, login))


def _keys(setting: Setting) -> AuthenticationKeys:
    assert setting.authentication is not None  # the dispatcher sends this service's jobs only
    return setting.authentication


def _seal(setting: Setting, kind: MessageType, transaction_id: bytes, body: KeyDistribution) -> bytes:
    own = _keys(setting)
    return seal_distribution(kind, transaction_id, body, own.own, own.nms_public, setting.chance)


def _answer(setting: Setting, attempt: LoginAttempt, route: Route, response: LoginResponse) -> Reply:
    return Reply([Send(write_login_response(attempt, response, setting.chance), route)])


def _response(setting: Setting, place: bytes, login: OpenLogin | ClosedLogin) -> LoginResponse:
    if login.outcome != LoginOutcome.ACCEPTED:
        return LoginResponse(outcome=login.outcome)
    return LoginResponse(
        outcome=LoginOutcome.ACCEPTED,
        common_key=setting.vault.open(place, login.common_key),
        key_number=login.key_number,
        key_lifetime=COMMON_KEY_LIFETIME,
        certificate=login.certificate,
        nms_key=_keys(setting).nms_public,
        as_endpoints=setting.as_endpoints(),
        nms_endpoints=setting.nms_endpoints(),
        prefix_ipv6=setting.site.prefix_ipv6,
        pool_ipv4=setting.site.pool_ipv4,
        time=setting.time,
    )
