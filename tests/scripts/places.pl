#!/usr/bin/env perl
# places.pl <TAR: lists the places in the kernel's source that can change the extent map of a regular file. A line is
# FILE:FUNCTION:WHAT, where WHAT is the function's call or, for an ioctl, the command.
use strict;
use warnings;

# Functions that write, allocate, truncate or share, or hand a file to one that does.
my $functions = join '|', qw(
    call_write_iter new_sync_write do_iter_readv_writev do_iter_write vfs_write vfs_writev vfs_iter_write
    vfs_iocb_iter_write kernel_write __kernel_write __kernel_write_iter
    iter_file_splice_write do_splice do_splice_from do_splice_direct do_splice_direct_actor splice_direct_to_actor
    splice_file_range splice_copy_file_range generic_copy_file_range do_sendfile
    backing_file_write_iter do_backing_file_write_iter backing_file_splice_write
    vfs_fallocate
    vfs_clone_file_range do_clone_file_range vfs_dedupe_file_range vfs_dedupe_file_range_one vfs_copy_file_range
    notify_change do_truncate vfs_truncate do_ftruncate do_sys_ftruncate ksys_ftruncate do_sys_truncate ksys_truncate
    vfs_fileattr_set dquot_quota_on dquot_quota_on_mount dquot_load_quota_inode
    vfs_ioctl do_vfs_ioctl
);
# Operations of a file, which code may also call through a variable.
my $taken = join '|', qw(write_iter splice_write fallocate remap_file_range copy_file_range);
# Operations of files, inodes, mappings, mappings of memory, quotas and exports.
my $called = join '|', qw(
    write_iter splice_write fallocate remap_file_range copy_file_range fileattr_set setattr swap_activate swap_rw
    write_begin page_mkwrite pfn_mkwrite quota_on quota_write commit_blocks uring_cmd
);
# Operations whose names other structures use as well.
my $named = join '|', qw((?:s_export_op|block_ops)->map_blocks f_op->unlocked_ioctl f_op->compat_ioctl);

# Functions that change an extent map within XFS and ext4: callers that act without any of the above are found here.
my $inmost = join '|', qw(
    xfs_bmapi_write xfs_bmapi_remap xfs_bunmapi xfs_bmapi_convert_delalloc xfs_itruncate_extents
    xfs_itruncate_extents_flags xfs_bmap_map_extent xfs_bmap_unmap_extent xfs_exchange_mappings xfs_swap_extents
    xfs_zoned_end_io xfs_iomap_write_direct xfs_iomap_write_unwritten
    ext4_mb_new_blocks ext4_ext_insert_extent ext4_ext_remove_space ext4_swap_extents ext4_ext_tree_init ext4_truncate
);

# The files in which each ioctl command is a place, and the names of commands.
my $controlled = qr{^(?:fs/(?:xfs|ext4|f2fs)/|fs/ioctl\.c$|fs/fuse/|drivers/block/loop\.c$)};
my $command = qr{\w+_IOC(?:32)?_\w+|FI(?:TRIM|FREEZE|THAW|BMAP|CLONE\w*|DEDUPERANGE|GETBSZ|ONREAD)|LOOP_\w+};

# Code for other machines and for programs.
my $elsewhere = qr{^(?:arch|tools|Documentation|samples|scripts)/};

my %places;
my $long;
binmode STDIN;
while (my $header = take(512)) {
    my ($name, $size, $type, $prefix) = (unpack 'Z100 x24 A12 x20 a x188 Z155', $header);
    last if $name eq '';
    my $text = take(oct $size);
    take(-length($text) % 512);
    # A long name comes in an entry of its own, before that of the file.
    if ($type eq 'L' || $type eq 'x') {
        $long = unpack 'Z*', $text if $type eq 'L';
        $long = $1 if $type eq 'x' && $text =~ /^\d+ path=(.*)$/m;
        next;
    }
    my $file = $long // ($prefix eq '' || $header !~ /^.{257}ustar\0/s ? $name : "$prefix/$name");
    $long = undef;
    $file =~ s{^[^/]*/}{};
    list($file, $text) if $type eq '0' && $file =~ /\.[ch]$/ && $file !~ $elsewhere;
}
# The writer of the archive must not be interrupted.
1 while read STDIN, my $rest, 65536;
print map { "$_\n" } sort keys %places;

sub take {
    my ($length) = @_;
    my $bytes = '';
    while (length $bytes < $length) {
        my $got = read(STDIN, $bytes, $length - length $bytes, length $bytes) // die "places.pl: read: $!\n";
        die "places.pl: the archive ends early\n" unless $got;
    }
    return $bytes;
}

sub list {
    my ($file, $text) = @_;
    my $commands = $file =~ $controlled;
    return unless $commands || $text =~ /\b(?:$functions|$called|map_blocks|unlocked_ioctl|compat_ioctl)\b/;
    # Comments and literals go; the lines stay.
    $text =~ s{(/\*.*?\*/|//[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)+')}{' ' . "\n" x ($1 =~ tr/\n//)}gse;
    my ($head, $function) = ('', '');
    for my $line (split /\n/, $text) {
        if (!$function) {
            # In the kernel's style a function's head and its braces are not indented.
            if ($line =~ /^#|[;}]\s*$/) {
                $head = '';
            } else {
                $head .= " $line";
                $function = name($head) if $line =~ /^\{|\)\s*\{\s*$/;
            }
            next unless $function;
        } elsif ($line =~ /^\}/) {
            ($head, $function) = ('', '');
            next;
        }
        my @found;
        push @found, "$1()" while $line =~ /(?<![\w.>])($functions)\s*\(/g;
        push @found, $1 while $line =~ /f_op(->(?:$taken))\b/g;
        push @found, $1 while $line =~ /(->(?:$called))\s*\(/g;
        push @found, '->' . ($1 =~ s/.*->//r) while $line =~ /($named)\s*\(/g;
        if ($commands) {
            push @found, "$1()" while $line =~ /(?<![\w.>])($inmost)\s*\(/g;
            push @found, $1 while $line =~ /\bcase\s+($command)\s*:/g;
        }
        $places{"$file:$function:$_"} = 1 for @found;
    }
}

# The name of the function that begins with this head, or nothing.
sub name {
    my ($head) = @_;
    return $1 if $head =~ /SYSCALL_DEFINE\d\s*\(\s*(\w+)/;
    return $head =~ /=\s*\{/ ? '' : $head =~ /(\w+)\s*\(/ ? $1 : '';
}
