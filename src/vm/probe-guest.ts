/**
 * The probe guest, as [bytes, assembly] (Intel syntax). Loaded at 0xf0000 in a 64 KiB ROM, `F000:0000` in real mode.
 *
 * It enters long mode with the first 16 MiB mapped one to one, and writes 'S' to the debug console. Then 64 rounds of
 *  - 600 000 calls of a step that mixes a number and adds it to one of 2^18 words in memory,
 *  - a page table emptied, CR3 reloaded, 512 pages touched, each coming back through a page fault,
 *  - 64 port writes.
 * About 350 million instructions, 33 thousand faults, 4 thousand exits. At the end every word is folded into 64 bits
 * and compared with the figure that test/host/accel.test.ts computes anew; 'E' to the debug console, then 0x2a (right)
 * or 0x15 (wrong) to isa-debug-exit, which makes QEMU exit with 2v+1.
 *
 * RAM: 0x10000 PML4, 0x11000 PDPT, 0x12000 PD, 0x13000 the page table, 0x14000 IDT, stack below 0x80000,
 * words at 4 MiB, faulting pages at 8 MiB.
 */
const GUEST: readonly (readonly [bytes: string, asm: string])[] = [
  // start:
  ['fa', 'cli'],
  ['fc', 'cld'],
  ['2e660f0116d001', 'lgdtd cs:[gdtr]'],
  ['0f20c0', 'mov eax, cr0'],
  ['0c01', 'or al, 1'],
  ['0f22c0', 'mov cr0, eax'],
  ['66ea19000f000800', 'jmp far 0x08:0xf0000 + protected'],
  // .code32
  // protected:
  ['66b81000', 'mov ax, 0x10'],
  ['8ed8', 'mov ds, ax'],
  ['8ec0', 'mov es, ax'],
  ['8ed0', 'mov ss, ax'],
  ['bc00000800', 'mov esp, 0x80000'],
  ['bf00000100', 'mov edi, 0x10000'],
  ['31c0', 'xor eax, eax'],
  ['b900140000', 'mov ecx, 0x1400'],
  ['f3ab', 'rep stosd'],
  ['c7050000010003100100', 'mov dword ptr [0x10000], 0x11003'],
  ['c7050010010003200100', 'mov dword ptr [0x11000], 0x12003'],
  ['bf00200100', 'mov edi, 0x12000'],
  ['b883000000', 'mov eax, 0x83'],
  ['b908000000', 'mov ecx, 8'],
  // big:
  ['8907', 'mov [edi], eax'],
  ['0500002000', 'add eax, 0x200000'],
  ['83c708', 'add edi, 8'],
  ['e2f4', 'loop big'],
  ['c7052020010003300100', 'mov dword ptr [0x12020], 0x13003'],
  ['c705e040010082011800', 'mov dword ptr [0x140e0], offset fault + 0x180000'],
  ['c705e4400100008e0f00', 'mov dword ptr [0x140e4], 0x0f8e00'],
  ['b800000100', 'mov eax, 0x10000'],
  ['0f22d8', 'mov cr3, eax'],
  ['b820000000', 'mov eax, 0x20'],
  ['0f22e0', 'mov cr4, eax'],
  ['b9800000c0', 'mov ecx, 0xc0000080'],
  ['0f32', 'rdmsr'],
  ['0d00010000', 'or eax, 0x100'],
  ['0f30', 'wrmsr'],
  ['0f20c0', 'mov eax, cr0'],
  ['0d00000080', 'or eax, 0x80000000'],
  ['0f22c0', 'mov cr0, eax'],
  ['eab3000f001800', 'jmp far 0x18:0xf0000 + long'],
  // .code64
  // long:
  ['0f011d1c010000', 'lidt [rip + idtr]'],
  ['b053', 'mov al, 0x53'],
  ['e6e9', 'out 0xe9, al'],
  ['bb78563412', 'mov ebx, 0x12345678'],
  ['4531e4', 'xor r12d, r12d'],
  ['4531ed', 'xor r13d, r13d'],
  ['41bf40000000', 'mov r15d, 64'],
  // round:
  ['b9c0270900', 'mov ecx, 600000'],
  // work:
  ['e88c000000', 'call step'],
  ['ffc9', 'dec ecx'],
  ['75f7', 'jnz work'],
  ['bf00300100', 'mov edi, 0x13000'],
  ['31c0', 'xor eax, eax'],
  ['b900020000', 'mov ecx, 512'],
  ['f348ab', 'rep stosq'],
  ['0f20d8', 'mov rax, cr3'],
  ['0f22d8', 'mov cr3, rax'],
  ['bf00008000', 'mov edi, 0x800000'],
  // touch:
  ['011f', 'add [rdi], ebx'],
  ['8b07', 'mov eax, [rdi]'],
  ['4901c4', 'add r12, rax'],
  ['81c700100000', 'add edi, 0x1000'],
  ['81ff0000a000', 'cmp edi, 0xa00000'],
  ['72eb', 'jb touch'],
  ['b940000000', 'mov ecx, 64'],
  // ports:
  ['e680', 'out 0x80, al'],
  ['ffc9', 'dec ecx'],
  ['75fa', 'jnz ports'],
  ['41ffcf', 'dec r15d'],
  ['75b3', 'jnz round'],
  ['49be157c4a7fb979379e', 'movabs r14, 0x9e3779b97f4a7c15'],
  ['bf00004000', 'mov edi, 0x400000'],
  // fold:
  ['8b07', 'mov eax, [rdi]'],
  ['4d0fafe6', 'imul r12, r14'],
  ['4901c4', 'add r12, rax'],
  ['83c704', 'add edi, 4'],
  ['81ff00005000', 'cmp edi, 0x500000'],
  ['72ec', 'jb fold'],
  ['4d0fafe6', 'imul r12, r14'],
  ['4d01ec', 'add r12, r13'],
  ['ba15000000', 'mov edx, 0x15'],
  ['b92a000000', 'mov ecx, 0x2a'],
  ['4c3b2589000000', 'cmp r12, [rip + expected]'],
  ['0f44d1', 'cmove edx, ecx'],
  ['b045', 'mov al, 0x45'],
  ['e6e9', 'out 0xe9, al'],
  ['89d0', 'mov eax, edx'],
  ['e7f4', 'out 0xf4, eax'],
  // halt:
  ['f4', 'hlt'],
  ['ebfd', 'jmp halt'],
  // step:
  ['69db0d661900', 'imul ebx, ebx, 1664525'],
  ['81c35ff36e3c', 'add ebx, 1013904223'],
  ['89d8', 'mov eax, ebx'],
  ['c1e80c', 'shr eax, 12'],
  ['25fcff0f00', 'and eax, 0xffffc'],
  ['019800004000', 'add [rax + 0x400000], ebx'],
  ['c3', 'ret'],
  // fault:
  ['50', 'push rax'],
  ['51', 'push rcx'],
  ['0f20d0', 'mov rax, cr2'],
  ['89c1', 'mov ecx, eax'],
  ['c1e90c', 'shr ecx, 12'],
  ['81e1ff010000', 'and ecx, 0x1ff'],
  ['2500f0ffff', 'and eax, 0xfffff000'],
  ['83c803', 'or eax, 3'],
  ['488904cd00300100', 'mov [rcx * 8 + 0x13000], rax'],
  ['49ffc5', 'inc r13'],
  ['59', 'pop rcx'],
  ['58', 'pop rax'],
  ['4883c408', 'add rsp, 8'],
  ['48cf', 'iretq'],
  ['0f1f00', 'nop'],
  // gdt:
  ['0000000000000000', '.quad 0'],
  ['ffff0000009bcf00', '.quad 0x00cf9b000000ffff'],
  ['ffff00000093cf00', '.quad 0x00cf93000000ffff'],
  ['ffff0000009baf00', '.quad 0x00af9b000000ffff'],
  // gdtr:
  ['1f00', '.word 31'],
  ['b0010f00', '.long 0xf0000 + gdt'],
  // idtr:
  ['ef00', '.word 0xef'],
  ['0040010000000000', '.quad 0x14000'],
  // expected:
  ['b02dbc5c505a808f', '.quad 0x8f805a505cbc2db0'],
];

/** The 64 KiB BIOS image: the guest at its start, `jmp far F000:0000` at the reset vector 16 bytes before its end. */
export function probeRom(): Buffer {
  const rom = Buffer.alloc(65536);
  Buffer.from(GUEST.map(([bytes]) => bytes).join(''), 'hex').copy(rom);
  Buffer.from('ea000000f0', 'hex').copy(rom, 0xfff0);
  return rom;
}

/**
 * Offset in the ROM of the 64-bit result the guest compares with: its last eight bytes.
 *
 * @internal
 */
export const PROBE_EXPECTED_OFFSET = GUEST.reduce((sum, [bytes]) => sum + bytes.length / 2, 0) - 8;

/** QEMU's exit code when the guest computed the right result, and when another. */
export const PROBE_EXIT = { right: (0x2a << 1) | 1, wrong: (0x15 << 1) | 1 };
