//! The program that the kernel runs: a few instructions of BPF, written by hand.
//!
//! It stores an entry in the table and always permits the call, also if the table has no room. The kernel's verifier
//! proves before it accepts the program that it ends and touches nothing else.

use std::{
    mem::offset_of,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::entry::{Key, Value};

/// Address family of the sockets that a program is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    V4,
    V6,
}

/// An instruction (`struct bpf_insn` of `<linux/bpf.h>`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    value: i32,
}

/// Registers: a function's result, its first arguments, a register that it keeps, and the end of the stack.
const RESULT: u8 = 0;
const ARGUMENT_1: u8 = 1;
const ARGUMENT_2: u8 = 2;
const ARGUMENT_3: u8 = 3;
const ARGUMENT_4: u8 = 4;
const CONTEXT: u8 = 6;
const STACK: u8 = 10;

/// Functions of the kernel (`enum bpf_func_id`).
const MAP_UPDATE_ELEM: i32 = 2;
const KTIME_GET_NS: i32 = 5;
const GET_CURRENT_PID_TGID: i32 = 14;
const GET_CURRENT_COMM: i32 = 16;

/// Offsets in the context, the call's address (`struct bpf_sock_addr`).
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const PROTOCOL: i16 = 36;

/// Places on the stack, relative to its end: the key, and the value below it.
const KEY: i16 = -(size_of::<Key>() as i16);
const VALUE: i16 = KEY - size_of::<Value>() as i16;

/// Bytes 8 to 11 of an IPv4 address that is mapped to IPv6.
const MAPPED: i32 = i32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Result that permits the call.
const PERMIT: i32 = 1;

/// Codes of the instructions, by their names in that header.
mod code {
    /// `BPF_LDX | BPF_MEM | BPF_W`
    pub(super) const LOAD_32: u8 = 0x61;
    /// `BPF_ST | BPF_MEM | BPF_W`
    pub(super) const STORE_CONSTANT_32: u8 = 0x62;
    /// `BPF_STX | BPF_MEM | BPF_W`
    pub(super) const STORE_32: u8 = 0x63;
    /// `BPF_STX | BPF_MEM | BPF_DW`
    pub(super) const STORE_64: u8 = 0x7b;
    /// `BPF_LD | BPF_IMM | BPF_DW`
    pub(super) const LOAD_CONSTANT_64: u8 = 0x18;
    /// `BPF_ALU64 | BPF_ADD | BPF_K`
    pub(super) const ADD_CONSTANT: u8 = 0x07;
    /// `BPF_ALU64 | BPF_RSH | BPF_K`
    pub(super) const SHIFT_RIGHT: u8 = 0x77;
    /// `BPF_ALU64 | BPF_MOV | BPF_K`
    pub(super) const SET: u8 = 0xb7;
    /// `BPF_ALU64 | BPF_MOV | BPF_X`
    pub(super) const COPY: u8 = 0xbf;
    /// `BPF_JMP | BPF_CALL`
    pub(super) const CALL: u8 = 0x85;
    /// `BPF_JMP | BPF_EXIT`
    pub(super) const EXIT: u8 = 0x95;
}

/// Returns the program for a family's sockets and a table.
pub(super) fn instructions(family: Family, table: BorrowedFd<'_>) -> Vec<Instruction> {
    let address = KEY + offset_of!(Key, address) as i16;
    let mut program = vec![copy_register(CONTEXT, ARGUMENT_1)];
    match family {
        Family::V4 => {
            program.extend([
                store_constant(address, 0),
                store_constant(address + 4, 0),
                store_constant(address + 8, MAPPED),
            ]);
            program.extend(copy_field(USER_IP4, address + 12));
        }
        Family::V6 => {
            program.extend([0, 4, 8, 12].iter().flat_map(|at| copy_field(USER_IP6 + at, address + at)));
        }
    }
    program.extend(copy_field(USER_PORT, KEY + offset_of!(Key, port) as i16));
    program.extend(copy_field(PROTOCOL, KEY + offset_of!(Key, protocol) as i16));
    program.extend([
        call(KTIME_GET_NS),
        store_64(VALUE + offset_of!(Value, time) as i16, RESULT),
        call(GET_CURRENT_PID_TGID),
        // The process is in the high half, the thread in the low one.
        Instruction { code: code::SHIFT_RIGHT, registers: RESULT, offset: 0, value: 32 },
        store_64(VALUE + offset_of!(Value, pid) as i16, RESULT),
    ]);
    program.extend(address_on_stack(ARGUMENT_1, VALUE + offset_of!(Value, name) as i16));
    program.extend([set(ARGUMENT_2, size_of_val(&Value::default().name) as i32), call(GET_CURRENT_COMM)]);
    program.extend(load_table(ARGUMENT_1, table));
    program.extend(address_on_stack(ARGUMENT_2, KEY));
    program.extend(address_on_stack(ARGUMENT_3, VALUE));
    program.extend([
        set(ARGUMENT_4, 0),
        call(MAP_UPDATE_ELEM),
        set(RESULT, PERMIT),
        Instruction { code: code::EXIT, registers: 0, offset: 0, value: 0 },
    ]);
    program
}

/// Copies 32 bits of the context to the stack.
fn copy_field(from: i16, to: i16) -> [Instruction; 2] {
    let registers = |destination, source| destination | source << 4;
    [
        Instruction {
            code: code::LOAD_32,
            registers: registers(ARGUMENT_1, CONTEXT),
            offset: from,
            value: 0,
        },
        Instruction { code: code::STORE_32, registers: registers(STACK, ARGUMENT_1), offset: to, value: 0 },
    ]
}

/// Stores 32 bits on the stack.
fn store_constant(to: i16, value: i32) -> Instruction {
    Instruction { code: code::STORE_CONSTANT_32, registers: STACK, offset: to, value }
}

/// Stores a register's 64 bits on the stack.
fn store_64(to: i16, from: u8) -> Instruction {
    Instruction { code: code::STORE_64, registers: STACK | from << 4, offset: to, value: 0 }
}

fn copy_register(to: u8, from: u8) -> Instruction {
    Instruction { code: code::COPY, registers: to | from << 4, offset: 0, value: 0 }
}

fn set(to: u8, value: i32) -> Instruction {
    Instruction { code: code::SET, registers: to, offset: 0, value }
}

/// Sets a register to the address of a place on the stack.
fn address_on_stack(to: u8, at: i16) -> [Instruction; 2] {
    [
        copy_register(to, STACK),
        Instruction { code: code::ADD_CONSTANT, registers: to, offset: 0, value: at.into() },
    ]
}

/// Sets a register to the table of a descriptor: the one instruction of twice the length.
fn load_table(to: u8, table: BorrowedFd<'_>) -> [Instruction; 2] {
    const IS_DESCRIPTOR: u8 = 1;
    [
        Instruction {
            code: code::LOAD_CONSTANT_64,
            registers: to | IS_DESCRIPTOR << 4,
            offset: 0,
            value: table.as_raw_fd(),
        },
        Instruction { code: 0, registers: 0, offset: 0, value: 0 },
    ]
}

fn call(function: i32) -> Instruction {
    Instruction { code: code::CALL, registers: 0, offset: 0, value: function }
}
