//! The stack that every chain of calls needs, as Linux 6.1 counts it. Newer kernels round each function's share up in
//! smaller steps, so that a program which they load may be refused by 6.1.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::Object;
use aya_obj::generated::{
    BPF_ADD, BPF_ALU, BPF_ALU64, BPF_CALL, BPF_JMP, BPF_JMP32, BPF_K, BPF_LD, BPF_LDX, BPF_MOV,
    BPF_PSEUDO_CALL, BPF_ST, BPF_STX, BPF_X, bpf_insn,
};

use mesh_agent::dataplane::object::XDP_OBJECT;

use crate::support::world::object;

/// Bytes (`MAX_BPF_STACK`).
const MOST: usize = 512;
/// (Linux 6.1, kernel/bpf/verifier.c, `check_max_stack_depth`.)
const STEP: usize = 32;
/// The register r10, which is only read.
const FRAME_POINTER: u32 = 10;

#[test]
fn no_chain_of_calls_needs_more_stack_than_linux_6_1_grants() {
    let mut programs = programs(object());
    programs.extend(self::programs(XDP_OBJECT));
    assert!(programs.values().any(|frames| frames.len() > 1), "no program calls anything");
    for (program, frames) in &programs {
        let chain = deepest(frames, 0);
        let depth = total(frames, &chain);
        let links: Vec<String> = chain.iter().map(|start| frames[start].to_string()).collect();
        assert!(depth <= MOST, "{program} needs {depth} bytes of stack: {}", links.join(" calls "));
    }
}

#[test]
fn a_chain_is_as_deep_as_its_functions_in_whole_steps() {
    let store = |offset| instruction(BPF_ST, FRAME_POINTER, 0, offset, 0);
    let copy = |to| instruction(BPF_ALU64 | BPF_MOV | BPF_X, to, FRAME_POINTER, 0, 0);
    let add = |to, number| instruction(BPF_ALU64 | BPF_ADD | BPF_K, to, 0, 0, number);
    let call = |over| instruction(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, over);
    let other = instruction(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, -400);
    let program = [
        // 8 bytes, and the deeper of the two: 96 of 128.
        call(3),
        store(-8),
        call(4),
        other,
        // 33 bytes and nothing else.
        instruction(BPF_LDX, 0, FRAME_POINTER, -33, 0),
        add(1, -400),
        other,
        // None at all, which counts like one, and itself calls the last.
        call(0),
        // 40 bytes by a copy that is not used at once.
        copy(2),
        other,
        add(2, -40),
        add(2, -400),
    ];
    let frames = frames(&program, &BTreeMap::new());
    let depths: Vec<_> = frames.iter().map(|(start, frame)| (*start, frame.depth)).collect();
    assert_eq!(depths, [(0, 8), (4, 33), (7, 0), (8, 40)]);
    let chain = deepest(&frames, 0);
    assert_eq!(chain, [0, 7, 8]);
    assert_eq!(total(&frames, &chain), 32 + 32 + 64);
}

/// A function in a program, which begins at 0 and is followed by all that it calls.
#[derive(Debug)]
struct Frame {
    name: String,
    /// Bytes of stack that its instructions reach.
    depth: usize,
    /// Where the functions begin that it calls.
    callees: BTreeSet<usize>,
}

impl std::fmt::Display for Frame {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.name, self.depth)
    }
}

/// By name, each linked as the agent's loader does it: its functions by their first instructions.
fn programs(object: &[u8]) -> BTreeMap<String, BTreeMap<usize, Frame>> {
    let mut object = Object::parse(object).expect("an object");
    // By their numbers among the types, which survive linking.
    let names = object.functions.values().flat_map(|function| {
        let types = function.func_info.func_info.iter();
        types.map(|info| (info.type_id, function.name.clone()))
    });
    let names: BTreeMap<u32, String> = names.collect();
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).expect("every function that is called is there");
    let linked = object.programs.iter().map(|(name, program)| {
        let function = &object.functions[&program.function_key()];
        let places = function.func_info.func_info.iter();
        let names = places.map(|info| (info.insn_off as usize, names[&info.type_id].clone()));
        (name.clone(), frames(&function.instructions, &names.collect()))
    });
    linked.collect()
}

/// What is called begins a function.
fn frames(program: &[bpf_insn], names: &BTreeMap<usize, String>) -> BTreeMap<usize, Frame> {
    let called = program.iter().enumerate().filter_map(|(at, instruction)| callee(at, *instruction));
    let starts: BTreeSet<usize> = called.chain([0]).collect();
    let ends = starts.iter().copied().skip(1).chain([program.len()]);
    let frames = starts.iter().zip(ends).map(|(&start, end)| {
        let body = &program[start..end];
        let callees = body.iter().zip(start..).filter_map(|(instruction, at)| callee(at, *instruction));
        let name = names.get(&start).cloned().unwrap_or_else(|| format!("the one at {start}"));
        (start, Frame { name, depth: depth(body), callees: callees.collect() })
    });
    frames.collect()
}

/// Where the function begins that is called here.
fn callee(at: usize, instruction: bpf_insn) -> Option<usize> {
    let is_call = u32::from(instruction.code) == BPF_JMP | BPF_CALL
        && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL;
    is_call.then(|| (at + 1).strict_add_signed(instruction.imm as isize))
}

/// How far below the frame pointer the instructions reach, in bytes.
fn depth(function: &[bpf_insn]) -> usize {
    let mut lowest = 0;
    // Registers that equal the frame pointer.
    let mut copies = BTreeSet::from([FRAME_POINTER]);
    for instruction in function {
        let code = u32::from(instruction.code);
        let (to, from) = (u32::from(instruction.dst_reg()), u32::from(instruction.src_reg()));
        match code & 0x07 {
            BPF_ST | BPF_STX if copies.contains(&to) => lowest = lowest.min(instruction.off.into()),
            BPF_LDX if copies.contains(&from) => lowest = lowest.min(instruction.off.into()),
            BPF_ALU64 if code == BPF_ALU64 | BPF_ADD | BPF_K && copies.contains(&to) => {
                lowest = lowest.min(instruction.imm);
            }
            // Other paths come together after a jump; what is called keeps some registers.
            BPF_JMP if code & 0xf0 == BPF_CALL => copies.retain(|register| *register > 5),
            BPF_JMP | BPF_JMP32 => copies = BTreeSet::from([FRAME_POINTER]),
            _ => {}
        }
        if matches!(code & 0x07, BPF_LD | BPF_LDX | BPF_ALU | BPF_ALU64) {
            copies.remove(&to);
        }
        if code == BPF_ALU64 | BPF_MOV | BPF_X && from == FRAME_POINTER {
            copies.insert(to);
        }
    }
    lowest.unsigned_abs() as usize
}

/// The chain of calls from a function that needs the most stack.
fn deepest(frames: &BTreeMap<usize, Frame>, start: usize) -> Vec<usize> {
    let below = frames[&start].callees.iter().map(|callee| deepest(frames, *callee));
    let deepest = below.max_by_key(|chain| total(frames, chain)).unwrap_or_default();
    [vec![start], deepest].concat()
}

fn total(frames: &BTreeMap<usize, Frame>, chain: &[usize]) -> usize {
    chain.iter().map(|start| frames[start].depth.max(1).next_multiple_of(STEP)).sum()
}

fn instruction(code: u32, to: u32, from: u32, off: i16, imm: i32) -> bpf_insn {
    bpf_insn {
        code: code as u8,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(to as u8, from as u8),
        off,
        imm,
    }
}
