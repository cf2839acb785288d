//! A policy of devices as instructions of the kernel's machine.
//!
//! A pure function. The program looks at what is asked for bit by bit: whoever reads and writes needs to
//! be allowed both, by one rule or by two. It begins with the last rule, takes away what a rule allows,
//! and ends with a refusal at the first that denies something of what is left.
//! <https://docs.kernel.org/bpf/standardization/instruction-set.html>

use super::{DeviceKind, DevicePolicy, DeviceRule};

/// An instruction, as the kernel takes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u8,
    /// The one that is changed or compared in four bits, the other in the other four.
    registers: u8,
    /// How many instructions a jump leaves out, or where in the context something lies.
    offset: i16,
    immediate: i32,
}

/// A register. `RESULT` is what the program returns, `CONTEXT` is `struct bpf_cgroup_dev_ctx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Register {
    Result = 0,
    Context = 1,
    Kind = 2,
    /// What is asked for and no rule has spoken of yet.
    Access = 3,
    Major = 4,
    Minor = 5,
}

/// Where in the context kind and access lie: the kind in the lower 16 bits.
const KIND_AND_ACCESS: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

// Of a class (the lowest three bits) and what is done in it.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const SET: u8 = 0xb7;
const COPY: u8 = 0xbf;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The program that decides by that policy: it returns 1 where something is allowed, else 0.
pub(super) fn of(policy: &DevicePolicy) -> Vec<Instruction> {
    use Register::{Access, Kind, Major, Minor};
    let mut program = vec![
        load(Kind, KIND_AND_ACCESS),
        copy(Access, Kind),
        with(AND, Kind, 0xffff),
        with(SHIFT_RIGHT, Access, 16),
        load(Major, MAJOR),
        load(Minor, MINOR),
    ];
    for rule in policy.rules.iter().rev() {
        program.extend(block(rule));
    }
    if !policy.allow_others {
        // Nothing is left, or nothing was asked for.
        let denied = answer(false);
        program.push(jump(JUMP_IF_EQUAL, Access, 0, denied.len()));
        program.extend(denied);
    }
    program.extend(answer(true));
    program
}

/// What one rule does; it leads on where it does not decide.
fn block(rule: &DeviceRule) -> Vec<Instruction> {
    use Register::{Access, Kind, Major, Minor, Result};
    let bits = rule.access.bits();
    let mut decision = match rule.allow {
        true => vec![
            with(AND, Access, !bits),
            jump(JUMP_IF_NOT_EQUAL, Access, 0, answer(true).len()),
        ],
        false => vec![
            copy(Result, Access),
            with(AND, Result, bits),
            jump(JUMP_IF_EQUAL, Result, 0, answer(false).len()),
        ],
    };
    decision.extend(answer(rule.allow));
    let kind = match rule.kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
    };
    // Numbers of devices have 32 bits together (makedev(3)), so each fits.
    let mut conditions = vec![(Kind, kind), (Major, rule.major.cast_signed())];
    conditions.extend(rule.minor.map(|minor| (Minor, minor.cast_signed())));
    // The last condition is put in front first, so that each knows how far the end is.
    let mut block = decision;
    for (register, value) in conditions.into_iter().rev() {
        block.insert(0, jump(JUMP_IF_NOT_EQUAL, register, value, block.len()));
    }
    block
}

fn answer(allow: bool) -> [Instruction; 2] {
    let exit = instruction(EXIT, 0, 0, 0);
    [with(SET, Register::Result, i32::from(allow)), exit]
}

fn load(to: Register, offset: i16) -> Instruction {
    instruction(LOAD_WORD, registers(to, Register::Context), offset, 0)
}

fn copy(to: Register, from: Register) -> Instruction {
    instruction(COPY, registers(to, from), 0, 0)
}

fn with(code: u8, register: Register, immediate: i32) -> Instruction {
    instruction(code, registers(register, Register::Result), 0, immediate)
}

/// Leaves out the next `over` instructions if the register is, or is not, that value.
fn jump(code: u8, register: Register, value: i32, over: usize) -> Instruction {
    // invariant: a rule has eight instructions at most.
    let over = i16::try_from(over).expect("a short jump");
    let registers = registers(register, Register::Result);
    instruction(code, registers, over, value)
}

fn registers(to: Register, from: Register) -> u8 {
    let (to, from) = (to as u8, from as u8);
    match cfg!(target_endian = "little") {
        true => from << 4 | to,
        false => to << 4 | from,
    }
}

fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DeviceAccess, MAX_RULES};
    use super::*;

    /// What a process wants of a device.
    #[derive(Debug, Clone, Copy)]
    struct Wish {
        kind: DeviceKind,
        major: u32,
        minor: u32,
        access: u8,
    }

    /// Runs a program as the kernel does.
    fn run(program: &[Instruction], wish: Wish) -> bool {
        let kind = match wish.kind {
            DeviceKind::Block => 1_u32,
            DeviceKind::Char => 2,
        };
        let context = [kind | u32::from(wish.access) << 16, wish.major, wish.minor];
        let (mut registers, mut at) = ([0_u64; 11], 0_usize);
        loop {
            let now = program[at];
            let (to, from) = (now.registers & 15, now.registers >> 4);
            let value = i64::from(now.immediate).cast_unsigned();
            at += 1;
            let over = usize::try_from(now.offset).unwrap();
            let held = registers[usize::from(to)];
            registers[usize::from(to)] = match now.code {
                LOAD_WORD => context[over / 4].into(),
                AND => held & value,
                SHIFT_RIGHT => held >> value,
                SET => value,
                COPY => registers[usize::from(from)],
                JUMP_IF_EQUAL | JUMP_IF_NOT_EQUAL => {
                    let is_equal = held == value;
                    if is_equal == (now.code == JUMP_IF_EQUAL) {
                        at += over;
                    }
                    held
                }
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x} is no instruction of these programs"),
            };
        }
    }

    /// What a policy means, said plainly.
    fn allows(policy: &DevicePolicy, wish: Wish) -> bool {
        let speaks = |rule: &&DeviceRule, bit: u8| {
            rule.kind == wish.kind
                && rule.major == wish.major
                && rule.minor.is_none_or(|minor| minor == wish.minor)
                && rule.access.0 & bit != 0
        };
        let mut bits = [1, 2, 4].into_iter().filter(|bit| wish.access & bit != 0);
        bits.all(|bit| {
            let mut rules = policy.rules.iter().rev();
            let rule = rules.find(|rule| speaks(rule, bit));
            rule.map_or(policy.allow_others, |rule| rule.allow)
        })
    }

    fn kind() -> impl Strategy<Value = DeviceKind> {
        prop_oneof![Just(DeviceKind::Block), Just(DeviceKind::Char)]
    }

    prop_compose! {
        fn rule()(
            allow: bool,
            kind in kind(),
            major in 0_u32..3,
            minor in proptest::option::of(0_u32..3),
            access in 0_u8..8,
        ) -> DeviceRule {
            DeviceRule { allow, kind, major, minor, access: DeviceAccess(access) }
        }
    }

    prop_compose! {
        fn policy()(
            allow_others: bool,
            rules in proptest::collection::vec(rule(), 0..6),
        ) -> DevicePolicy {
            DevicePolicy { allow_others, rules }
        }
    }

    proptest! {
        #[test]
        fn programs_decide_as_their_policies_say(
            policy in policy(),
            kind in kind(),
            major in 0_u32..3,
            minor in 0_u32..3,
            access in 0_u8..8,
        ) {
            let wish = Wish { kind, major, minor, access };
            prop_assert_eq!(run(&of(&policy), wish), allows(&policy, wish));
        }
    }

    #[test]
    fn a_whole_policy_fits_the_oldest_kernels() {
        let rule = DeviceRule {
            allow: false,
            kind: DeviceKind::Char,
            major: 195,
            minor: Some(0),
            access: DeviceAccess::ALL,
        };
        let policy = DevicePolicy {
            allow_others: false,
            rules: vec![rule; MAX_RULES],
        };
        assert!(of(&policy).len() <= 4096);
    }

    #[test]
    fn what_allows_a_part_leaves_the_rest_to_earlier_rules() {
        let rule = |allow, access| DeviceRule {
            allow,
            kind: DeviceKind::Char,
            major: 10,
            minor: None,
            access,
        };
        let policy = DevicePolicy {
            allow_others: false,
            rules: vec![
                rule(true, DeviceAccess::WRITE),
                rule(false, DeviceAccess::MKNOD),
                rule(true, DeviceAccess::READ),
            ],
        };
        let may = |access: DeviceAccess| {
            let wish = Wish {
                kind: DeviceKind::Char,
                major: 10,
                minor: 200,
                access: access.0,
            };
            run(&of(&policy), wish)
        };
        assert!(may(DeviceAccess::READ | DeviceAccess::WRITE));
        assert!(!may(DeviceAccess::READ | DeviceAccess::MKNOD));
        assert!(may(DeviceAccess(0)), "who asks for nothing is given it");
    }
}
