/* Greets, and says what it was given: its name and its arguments. The C sister of hello.rs. */

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    const char *name = getenv("TEPUI_TASK_NAME");
    printf("hello from %s, in C\n", name ? name : "nobody in particular");
    for (int i = 1; i < argc; i++) {
        printf("argument: %s\n", argv[i]);
    }
    return 0;
}
