//! Golden bytes of what masters keep and say, and that bad frames and lists are refused.

use std::fmt::Debug;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::limits::{GROUP_ANSWER_BYTES_MAX, GROUP_ENTRIES_MAX, VOTERS_MAX};
use crate::timestamp::Timestamp;

fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, parts: &[&[u8]]) {
    let bytes = postcard::to_stdvec(&value).expect("plain data");
    assert_eq!(bytes, parts.concat(), "{value:?}");
    assert_eq!(postcard::from_bytes::<T>(&bytes).as_ref(), Ok(&value));
}

fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, text: &str) {
    assert_eq!(serde_json::to_string(&value).expect("plain data"), text);
    assert_eq!(serde_json::from_str::<T>(text).expect("our own text"), value);
}

fn ids(numbers: &[u64]) -> BTreeSet<MemberId> {
    numbers.iter().copied().map(MemberId).collect()
}

fn group(configs: &[&[u64]], members: &[u64]) -> Result<MembersV1, BadMembers> {
    let members = members.iter().map(|id| (MemberId(*id), format!("b{id}"), [7; 32]));
    MembersV1::of(configs.iter().map(|config| ids(config)), members)
}

const VOTE: VoteV1 = VoteV1 { term: 300, of: MemberId(2), granted: true };
const LOG_ID: LogIdV1 = LogIdV1 { term: 3, index: 300 };
const VOTE_GOLDEN: &[u8] = &[0xac, 2, 2, 1];
const LOG_ID_GOLDEN: &[u8] = &[3, 0xac, 2];

#[test]
fn members() {
    let joint = group(&[&[1], &[1, 2, 3]], &[3, 2, 1, 300]).expect("can be");
    let key = [7; 32];
    golden(
        joint,
        &[
            &[2, 1, 1, 3, 1, 2, 3, 4],
            &[1, 2, b'b', b'1'],
            &key,
            &[0, 2, 2, b'b', b'2'],
            &key,
            &[0, 3, 2, b'b', b'3'],
            &key,
            &[0, 0xac, 2, 4],
            b"b300",
            &key,
            &[1],
        ],
    );
    golden(Reign { epoch: 1, term: 300 }, &[&[1, 0xac, 2]]);
}

#[test]
fn asks() {
    let append = GroupAskV1::Append {
        vote: VOTE,
        previous: None,
        commit: Some(LOG_ID),
        entries: vec![
            EntryWireV1 { id: LOG_ID, payload: PayloadWireV1::Blank },
            EntryWireV1 { id: LOG_ID, payload: PayloadWireV1::Entry(Bytes::from_static(b"ab")) },
            EntryWireV1 { id: LOG_ID, payload: PayloadWireV1::Members(MembersV1::default()) },
        ],
    };
    golden(
        append,
        &[
            &[0],
            VOTE_GOLDEN,
            &[0, 1],
            LOG_ID_GOLDEN,
            &[3],
            LOG_ID_GOLDEN,
            &[0],
            LOG_ID_GOLDEN,
            &[1, 2],
            b"ab",
            LOG_ID_GOLDEN,
            &[2, 0, 0],
        ],
    );
    let last = Some(LOG_ID);
    golden(
        GroupAskV1::Vote { vote: VOTE, last, transfer: true },
        &[&[1], VOTE_GOLDEN, &[1], LOG_ID_GOLDEN, &[1]],
    );
    golden(GroupAskV1::PreVote { vote: VOTE, last: None }, &[&[2], VOTE_GOLDEN, &[0]]);
    golden(
        GroupAskV1::Transfer { from: VOTE, to: MemberId(5), last },
        &[&[3], VOTE_GOLDEN, &[5, 1], LOG_ID_GOLDEN],
    );
    golden(GroupAskV1::ReadIndex, &[&[4]]);
    golden(GroupAskV1::Standing, &[&[5]]);
    golden(
        GroupAskV1::Beat { vote: VOTE, previous: None, commit: Some(LOG_ID) },
        &[&[6], VOTE_GOLDEN, &[0, 1], LOG_ID_GOLDEN],
    );
}

#[test]
fn answers() {
    let last = Some(LOG_ID);
    golden(GroupAnswerV1::Append(AppendedV1::Done { upto: None }), &[&[0, 0, 0]]);
    golden(GroupAnswerV1::Append(AppendedV1::Done { upto: last }), &[&[0, 0, 1], LOG_ID_GOLDEN]);
    golden(GroupAnswerV1::Append(AppendedV1::Conflict), &[&[0, 1]]);
    golden(GroupAnswerV1::Append(AppendedV1::HigherVote(VOTE)), &[&[0, 2], VOTE_GOLDEN]);
    golden(
        GroupAnswerV1::Vote { vote: VOTE, last, granted: false },
        &[&[1], VOTE_GOLDEN, &[1], LOG_ID_GOLDEN, &[0]],
    );
    golden(GroupAnswerV1::Transferred(true), &[&[2, 1]]);
    golden(GroupAnswerV1::Installed(VOTE), &[&[3], VOTE_GOLDEN]);
    golden(GroupAnswerV1::ReadIndex(None), &[&[4, 0]]);
    golden(
        GroupAnswerV1::Standing { epoch: 9, vote: VOTE, last },
        &[&[5, 9], VOTE_GOLDEN, &[1], LOG_ID_GOLDEN],
    );
    golden(GroupAnswerV1::Refused(FenceV1::Cluster), &[&[6, 0]]);
    golden(GroupAnswerV1::Refused(FenceV1::Epoch { is: 9 }), &[&[6, 1, 9]]);
    golden(GroupAnswerV1::Refused(FenceV1::Target), &[&[6, 2]]);
    golden(GroupAnswerV1::Refused(FenceV1::Sender), &[&[6, 3]]);
    golden(GroupAnswerV1::Refused(FenceV1::Away), &[&[6, 4]]);
}

fn head() -> GroupHeadV1 {
    let time = ClusterTimeV1 { cluster: Timestamp(150), system: Timestamp(-1), synced: true };
    GroupHeadV1 {
        cluster: *b"0123456789abcdef",
        epoch: 1,
        from: MemberId(2),
        to: MemberId(3),
        time,
    }
}

#[test]
fn frames_come_back_and_bad_ones_are_refused() {
    let frame = AskFrameV1 { sequence: 300, head: head(), ask: GroupAskV1::ReadIndex };
    let bytes = frame.encode();
    let start: &[u8] = &[1, 0xac, 2];
    assert_eq!(bytes, [start, b"0123456789abcdef", &[1, 2, 3, 0xac, 2, 1, 1, 4]].concat());
    assert_eq!(AskFrameV1::decode(&bytes), Ok(frame));
    for cut in 1..bytes.len() {
        assert_eq!(AskFrameV1::decode(&bytes[..cut]), Err(BadFrame::Body), "{cut}");
    }
    assert_eq!(AskFrameV1::decode(&[]), Err(BadFrame::Body));
    assert_eq!(AskFrameV1::decode(&[bytes.as_slice(), &[0]].concat()), Err(BadFrame::Body));
    assert_eq!(AskFrameV1::decode(&[&[2], &bytes[1..]].concat()), Err(BadFrame::Schema(2)));

    let answer =
        AnswerFrameV1 { sequence: 7, time: head().time, answer: GroupAnswerV1::Transferred(false) };
    assert_eq!(answer.encode(), [1, 7, 0xac, 2, 1, 1, 2, 0]);
    assert_eq!(AnswerFrameV1::decode(&answer.encode()), Ok(answer));
    let large = vec![GROUP_SCHEMA; GROUP_ANSWER_BYTES_MAX + 1];
    assert_eq!(AnswerFrameV1::decode(&large), Err(BadFrame::Body));
}

#[test]
fn frames_beyond_their_bounds_are_refused() {
    let with = |entries: Vec<EntryWireV1>| {
        let ask = GroupAskV1::Append { vote: VOTE, previous: None, commit: None, entries };
        AskFrameV1::decode(&AskFrameV1 { sequence: 1, head: head(), ask }.encode())
    };
    let blank = EntryWireV1 { id: LOG_ID, payload: PayloadWireV1::Blank };
    assert!(with(vec![blank.clone(); GROUP_ENTRIES_MAX]).is_ok());
    assert_eq!(with(vec![blank; GROUP_ENTRIES_MAX + 1]), Err(BadFrame::Bounds));
    let of = |members| vec![EntryWireV1 { id: LOG_ID, payload: PayloadWireV1::Members(members) }];
    assert!(with(of(group(&[&[1]], &[1]).expect("can be"))).is_ok());
    assert_eq!(with(of(MembersV1::default())), Err(BadFrame::Bounds));
}

#[test]
fn the_largest_head_of_a_snapshot_fits() {
    let numbers: Vec<u64> = (0..MASTERS_MAX as u64).map(|n| u64::MAX - n).collect();
    let board = |id: &u64| (MemberId(*id), "b".repeat(LABEL_BYTES_MAX), [255; 32]);
    let configs = [ids(&numbers[..VOTERS_MAX]), ids(&numbers[5..][..VOTERS_MAX])];
    let head = SnapshotHeadV1 {
        vote: VoteV1 { term: u64::MAX, ..VOTE },
        last: LogIdV1 { term: u64::MAX, index: u64::MAX },
        members: MembersV1::of(configs, numbers.iter().map(board)).expect("can be"),
        epoch: u64::MAX,
        base: u64::MAX,
        bytes: u64::MAX,
        sha256: [255; 32],
    };
    assert!(head.encode().len() <= GROUP_ANSWER_BYTES_MAX, "{}", head.encode().len());
    assert_eq!(SnapshotHeadV1::decode(&head.encode()), Ok(head));
    let small = SnapshotHeadV1 {
        vote: VOTE,
        last: LOG_ID,
        members: group(&[&[1]], &[1]).expect("can be"),
        epoch: 1,
        base: 2,
        bytes: 300,
        sha256: [9; 32],
    };
    let members: &[u8] = &[1, 1, 1, 1, 1, 2, b'b', b'1'];
    let end: &[u8] = &[0, 1, 2, 0xac, 2];
    golden(small, &[VOTE_GOLDEN, LOG_ID_GOLDEN, members, &[7; 32], end, &[9; 32]]);
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let check = |configs: &[&[u64]], members: &[u64], expected| {
        assert_eq!(group(configs, members).map(|_| ()), Err(expected), "{configs:?} {members:?}");
    };
    check(&[], &[1], BadMembers::Configs);
    check(&[&[]], &[1], BadMembers::Configs);
    check(&[&[1], &[1], &[1]], &[1], BadMembers::Configs);
    check(&[&[1, 2]], &[1], BadMembers::Voters);
    check(&[&[1]], &[1, 1], BadMembers::Members);
    check(&[&[1]], &[0, 1], BadMembers::Members);
    let many: Vec<u64> = (1..=MASTERS_MAX as u64 + 1).collect();
    check(&[&[1]], &many, BadMembers::Members);
    assert!(group(&[&[1]], &many[..MASTERS_MAX]).is_ok());

    let mut wrong = group(&[&[1, 2]], &[1, 2, 3]).expect("can be");
    wrong.configs[0].reverse();
    assert_eq!(wrong.check(), Err(BadMembers::Voters));
    wrong.configs[0].reverse();
    wrong.members[2].part = Part::Voter;
    assert_eq!(wrong.check(), Err(BadMembers::Part(MemberId(3))));
}

#[test]
fn a_joint_group_needs_both_majorities() {
    let group = group(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3, 4, 5, 6]).expect("can be");
    let quorum = |who: &[u64]| group.is_quorum(|id| who.contains(&id.0));
    assert!(quorum(&[1, 3, 4]) && quorum(&[1, 2, 4, 5]) && quorum(&[3, 2, 5]));
    assert!(!quorum(&[1, 2, 3]) && !quorum(&[3, 4, 5]) && !quorum(&[1, 2, 4, 6]));
    assert!(group.is_joint() && group.is_voter(MemberId(1)) && !group.is_voter(MemberId(6)));
    assert_eq!((group.voters(), group.learners()), (ids(&[3, 4, 5]), ids(&[6])));
    assert!(!MembersV1::default().is_quorum(|_| true), "nobody decides nothing");
}

#[test]
fn the_newest_member_of_a_board_is_found() {
    let twice = [(MemberId(1), "a".to_owned(), [1; 32]), (MemberId(4), "a".to_owned(), [1; 32])];
    let group = MembersV1::of([ids(&[1])], twice).expect("can be");
    assert_eq!(group.of_board("a").map(|member| member.id), Some(MemberId(4)));
    assert_eq!(group.of_board("b"), None);
}

#[test]
fn what_json_carries() {
    let kit = KitV1 {
        member: MemberId(2),
        epoch: 1,
        authority_key: SecretBytes(b"key".to_vec()),
        secrets_keys: vec![SecretsKeyV1 { id: 1, key: SecretBytes(vec![0; 2]) }],
        token_keys: vec![SecretBytes(b"t".to_vec())],
        certificate: "PEM".into(),
        members: MembersV1::default(),
        masters: Vec::new(),
        group: None,
    };
    assert!(!format!("{kit:?}").contains("107"), "{kit:?}");
    json(
        kit,
        "{\"member\":2,\"epoch\":1,\"authority_key\":\"a2V5\",\
         \"secrets_keys\":[{\"id\":1,\"key\":\"AAA=\"}],\"token_keys\":[\"dA==\"],\
         \"certificate\":\"PEM\",\"members\":{\"configs\":[],\"members\":[]},\"masters\":[]}",
    );
    let at = MasterAtV1 {
        member: MemberId(2),
        board: "b".into(),
        key: [0; 32],
        addresses: vec![[192, 0, 2, 1].into()],
        api_port: 6443,
        mqtt_port: 8883,
        peer_port: 7443,
        part: Part::Learner,
    };
    let key = format!("[{}0]", "0,".repeat(31));
    json(
        MastersV1 { leader: None, masters: vec![at] },
        &format!(
            "{{\"leader\":null,\"masters\":[{{\"member\":2,\"board\":\"b\",\"key\":{key},\
             \"addresses\":[\"192.0.2.1\"],\"api_port\":6443,\"mqtt_port\":8883,\
             \"peer_port\":7443,\"part\":\"learner\"}}]}}"
        ),
    );
    assert_eq!(serde_json::from_str::<MastersV1>("{}").expect("all default"), MastersV1::default());
}

#[test]
fn a_forwarded_call_fits_a_header() {
    let (name, groups) = ("j\u{e4}n\n".into(), vec!["g".into()]);
    let user = CallerV1 { name, groups, board_key: Some([7; 32]) };
    let address = "192.0.2.1:5".parse().expect("an address");
    let (method, protocol) = ("GET".into(), "websocket".into());
    let call = ApiCallV1 {
        user: Some(user.clone()),
        address,
        waited_ms: 7,
        refused: false,
        host: "pi-1".into(),
        upgrade: Some(UpgradeV1 { method, protocol }),
    };
    let header = call.header();
    assert!(header.bytes().all(|byte| byte.is_ascii_graphic()), "{header}");
    assert_eq!(ApiCallV1::from_header(&header), Some(call.clone()));
    assert_eq!(ApiCallV1::from_header("?"), None);
    let first = r#"{"user":{"name":"a"},"address":"192.0.2.1:5","waited_ms":7}"#;
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, first);
    let first = ApiCallV1::from_header(&encoded).expect("as it began");
    assert_eq!((first.refused, first.upgrade), (false, None));
    let groups = vec!["g".to_owned(); crate::limits::API_CALL_GROUPS_MAX + 1];
    let many = ApiCallV1 { user: Some(CallerV1 { groups, ..user }), ..call };
    assert_eq!(ApiCallV1::from_header(&many.header()), None);
}

#[test]
fn what_fresh_boards_say() {
    let id = GenesisId(*b"0123456789abcdef");
    let word = GenesisWordV1 {
        id,
        name: "b".into(),
        expect: 3,
        round: 1,
        promise: Some(PromiseV1 { to: id, round: 1 }),
    };
    let hex = "30313233343536373839616263646566";
    json(
        GenesisAnswerV1 { word: Some(word), founded: None },
        &format!(
            "{{\"word\":{{\"id\":\"{hex}\",\"name\":\"b\",\"expect\":3,\"round\":1,\
             \"promise\":{{\"to\":\"{hex}\",\"round\":1}}}},\"founded\":null}}"
        ),
    );
    for bad in
        ["", "30", "3031323334353637383961626364656g", "\u{e4}0313233343536373839616263646566"]
    {
        assert!(GenesisId::try_from(bad.to_owned()).is_err(), "{bad}");
    }
}
